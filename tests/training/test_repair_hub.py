"""A balance over a model of transformers: the policy under training is opened in the same process, adapter or whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.models.entries import ModelEntry
from holdfast.models.hub.random_base import build_random
from holdfast.records.errors import StepError
from holdfast.runs.methods.pairs.plan import PairStageSettings, TuningSettings
from holdfast.runs.methods.pairs.train import open_measure
from holdfast.runs.plan.settings import EpisodeLimits, SpeakerModel
from holdfast.runs.plan.step import Step
from holdfast.store import Store
from holdfast.study.sections import JudgeSection, SuiteSection
from holdfast.study.stages import BalanceSection, StageSection
from holdfast.suites.office import cases as office_cases
from holdfast.suites.parts import TUNE
from holdfast.training.dpo.mixing import Balance, Measured
from holdfast.training.policy.adapters import open_policy

pytest.importorskip("peft")
SIZES = {"hidden": 32, "layers": 2, "heads": 2, "key_value_heads": 1, "ffn": 48, "vocabulary": 300}
ENTRY = ModelEntry(kind="random", max_positions=2048, precision="fp32", **SIZES)


def step(cases: int, agent: SpeakerModel | None = None) -> tuple[Step, PairStageSettings]:
    settings = PairStageSettings(
        method="dpo",
        stage="S",
        parent="base",
        doses=(1,),
        train_seed=3,
        section=StageSection(objective="helpfulness", balance=BalanceSection(objective="safety", cases=cases)),
        tuning=TuningSettings(
            suite=SuiteSection(name="office"),
            split_seed=0,
            of=cases,
            judge="state",
            section=JudgeSection(kind="state"),
            limits=EpisodeLimits(temperature=1.0, max_turns=2, max_tokens=4, batch_size=3),
        ),
        agent=agent,
    )
    return Step(fingerprint="f" * 32, name="t", inputs=(), settings=settings, size=1), settings


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store.create(tmp_path_factory.mktemp("hub") / "run")
    cases = office_cases.generate(0, 4, part="train")
    with made.transaction():
        made.add_cases(cases)
        made.add_split(0, {TUNE: [case.id for case in cases]})
    return made


def test_a_model_is_measured_whole_and_as_an_adapter(store: Store, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    texts = [message.content for case in store.cases() for message in case.messages]
    build_random(base, ENTRY, texts, seed=0)
    wanted = step(4, SpeakerModel(model="agent", entry=ENTRY))
    found: dict[str, Measured] = {}
    for name, rank in (("whole", 0), ("adapter", 2)):
        open_policy(base, lora_r=rank).save(tmp_path / name)
        with open_measure(*wanted, store) as measure:
            found[name] = measure(tmp_path / name, 2)
    # A fresh adapter changes nothing, and the luck of a measurement is its step's.
    assert found["whole"] == found["adapter"] and found["whole"].episodes == 4
    assert (found["whole"].score is None) == (found["whole"].scored == 0)
    rule = Balance(floor=2.0, every=2, rate=1.0, initial=0.5, most=4.0)
    reading = rule.read(2, Measured(score=None, scored=0, episodes=4), [])
    assert reading["weight"] == 0.5, "a policy that nobody can read moves no weight"


def test_a_run_that_keeps_too_few_cases_is_told_so(store: Store) -> None:
    words = "keeps 4 cases for balances, 5 are needed; start a new run"
    with pytest.raises(StepError, match=words), open_measure(*step(5), store):
        pass
