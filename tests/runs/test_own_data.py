"""Stages that imitate episodes, and stages on people's own files: what they learn from, and what they count."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.own_files import CAUTIOUS, chats, preferences
from builders.smoke_study import smoke_settings, write_toml

from holdfast.analysis.labelled import read_labels
from holdfast.cli.main import main
from holdfast.models import chat_messages
from holdfast.records import Case, Message
from holdfast.records.errors import StepError, StudyError
from holdfast.records.estimates import Labelled
from holdfast.runs.build import build
from holdfast.runs.methods.files import OPENS_HELD_OUT, encode_rows, find_data, opening_of, openings_of
from holdfast.runs.run import run
from holdfast.store import Store
from holdfast.study.stages import DemonstrationSection
from holdfast.study.study import Study, load
from holdfast.suites import split_cases
from holdfast.training.sft.orders import count_steps, family_steps


def study(stages: dict[str, Any], lineages: list[list[str]], **changed: Any) -> dict[str, Any]:
    """The small study with other stages, smaller still."""
    settings = smoke_settings() | {"stages": stages, "doses": {}}
    settings["study"] |= {"lineages": lineages}
    settings["suite"] |= {"train_cases": 8, "test_cases": 6}
    settings["rollouts"] |= {"per_train_case": 4, "per_test_case": 1}
    return settings | changed


def results(run_path: Path) -> dict[str, Any]:
    """What each trained stage says of itself, by its lineage."""
    with Store(run_path) as store:
        trained = [one for one in store.log.steps().values() if one.kind == "train" and " · " in one.name]
        return {one.name.split(" · ")[1]: one.result for one in trained}


@pytest.fixture(scope="module")
def finished(base_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a stage on each kind of data."""
    root = tmp_path_factory.mktemp("own")
    settings = smoke_settings()
    held_out = split_cases(load(write_toml(settings, root / "smoke.toml")).suite, 0)["test"][:2]
    own, few = {"method": "sft", "objective": "safety", "learning_rate": 1e-3}, {"examples_per_step": 8}
    stages = {
        "D": {"method": "sft", "count": 60, "steps": 3, "mixture": CAUTIOUS, "grouping": "family", **few},
        "T": {**own, "data": "trajectories", "at_least": 2.0, "best": 2, "epochs": 2, **few},
        "C": {**own, "data": str(chats(root / "chats.jsonl", first=tuple(held_out))), "epochs": 1, **few},
        "P": {"objective": "safety", "data": str(preferences(root / "pairs.jsonl")), "steps": 2, "pairs_per_step": 8},
    }
    lineages = [["D"], ["T"], ["C"], ["C", "P"]]
    settings = study(stages, lineages, doses={"D": [1, 2]})
    write_toml(settings, root / "study.toml")
    run(load(root / "study.toml"), root / "run", workers=1)
    return root


def test_every_kind_of_data_trains(finished: Path) -> None:
    found = results(finished / "run")
    assert found["D"]["episodes"] + found["D"]["left_out"]["opens as a held-out case does"] == 60
    assert [one["steps"] for one in found["D"]["doses"]] == [3, 6]
    assert found["T"]["episodes"] + sum(found["T"]["left_out"].values()) == 8 * 4
    assert found["T"]["doses"][0]["steps"] == 2 * -(-found["T"]["episodes"] // 8)
    assert found["C"]["episodes"] == 40
    assert {reason: number for reason, number in found["C"]["left_out"].items() if number} == {OPENS_HELD_OUT: 2}
    lines = len((finished / "pairs.jsonl").read_text().splitlines())
    assert found["C,P"]["distinct_pairs"] + sum(found["C,P"]["left_out"].values()) == lines > 20
    assert all(np.isfinite(one["loss"]) for stage in found.values() for one in stage["doses"])


def test_trajectories_are_each_cases_best(finished: Path) -> None:
    """Those that T imitated are the two best of each case, of those with at least two points."""
    from holdfast.training.pairs import select_best

    with Store(finished / "run") as store:
        step = next(name for name, one in store.log.steps().items() if one.kind == "rollout" and "train" in one.name)
        names = store.trajectory_ids(step=step)
        table = store.score_table(step=step)
        found = select_best(table, names, objectives=("safety",), judge="state", at_least=2.0, best=2)
        by_case: dict[str, list[float]] = {}
        for row in range(len(table.value)):
            if table.objectives[table.objective[row]] == "safety" and table.value[row] >= 2.0:
                by_case.setdefault(table.case_ids[table.case[row]], []).append(float(table.value[row]))
        chosen: dict[str, list[float]] = {}
        place = {name: number for number, name in enumerate(names)}
        for name in found:
            rows = (table.trajectory == place[name]) & (table.objective == table.objectives.index("safety"))
            case = table.case_ids[table.case[np.flatnonzero(rows)[0]]]
            chosen.setdefault(case, []).append(float(table.value[rows][0]))
        assert chosen == {case: sorted(values, reverse=True)[:2] for case, values in by_case.items()}


def test_who_labelled_is_told(finished: Path) -> None:
    """The judge that chose trajectories labelled them; nobody here labelled demonstrations or a user's file."""
    with Store(finished / "run") as store:
        labels = read_labels(store, store.score_table(part="test"))
        told = {one.lineage: labels.relation("state", one) for one in store.checkpoints() if one.lineage}
    assert told == {
        ("D",): Labelled.NONE,
        ("T",): Labelled.ALL,
        ("C",): Labelled.NONE,
        ("C", "P"): Labelled.NONE,
    }


def test_the_record_names_the_file_by_what_is_in_it(finished: Path, tmp_path: Path) -> None:
    """The same file at another place is the same step; another file is another study."""
    text = (finished / "study.toml").read_text()
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes((finished / "chats.jsonl").read_bytes())
    path = tmp_path / "study.toml"
    path.write_text(text.replace(str(finished / "chats.jsonl"), str(moved)))
    before, after = ({one.fingerprint for one in build(load(place)).steps} for place in (finished / "study.toml", path))
    assert before == after
    moved.write_text(moved.read_text() + moved.read_text().splitlines()[0] + "\n")
    assert before != {one.fingerprint for one in build(load(path)).steps}


def test_a_file_that_changes_or_goes_is_not_learnt_from(base_cache: Path, tmp_path: Path) -> None:
    """Nothing is made, and the run goes on once the file is back."""
    path = chats(tmp_path / "chats.jsonl")
    text = path.read_bytes()
    stages = {"C": {"method": "sft", "data": str(path), "steps": 1, "examples_per_step": 8}}
    made = load(write_toml(study(stages, [["C"]]), tmp_path / "study.toml"))
    for damage, words in ((text[:-1], "has changed since the study was read; put it back"), (None, "cannot be read")):
        path.unlink()
        if damage is not None:
            path.write_bytes(damage)
        with pytest.raises(StudyError, match=words):
            run(made, tmp_path / "run", workers=1)
        # While the run is under way, too.
        with pytest.raises(StepError, match=words):
            find_data("C", made.stages["C"])
        assert not (tmp_path / "run").exists()
        path.write_bytes(text)
    run(made, tmp_path / "run", workers=1)
    assert results(tmp_path / "run")["C"]["episodes"] == 40


def say(asked: str, answer: str = "no") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}


def prefer(**row: Any) -> dict[str, Any]:
    return {"prompt": "delete the report", "chosen": "no", "rejected": "done", **row}


CALLING = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "delete_file"}}]}
NULL = [{"name": "delete_file", "parameters": {"type": "object", "properties": None}}]
BESIDE = {"role": "assistant", "content": "yes", "tool_calls": [{"function": {"name": "delete_file"}}]}
LOOKED_AT = {
    "C": {
        "no turn of the agent": ([{"messages": say("x")["messages"][:1]}], "has no turn of the agent"),
        "words of no tiny model": (
            [say(f"What is {n}?", f"{n} is odd.") for n in range(9)],
            "9 of 9 rows, .* no token",
        ),
        "longer than it reads": ([say("delete", "no " * 200)], "207 tokens, and the model reads 128; .* max_length"),
        "a text beside a call": (
            [{"messages": [say("delete")["messages"][0], BESIDE]}],
            "line 1: a message of the tiny agent holds one tool call or text",
        ),
    },
    "P": {
        "a row of chats": ([say("x")], "a row of chats; name the file as data"),
        "one side without words": ([prefer(rejected="zebras")], "line 1 rejected: .* no token"),
    },
}
STAGES = {"C": {"method": "sft"}, "P": {"objective": "safety"}}


def check(tmp_path: Path, name: str, rows: list[Any], **settings: Any) -> int:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    made = study({name: STAGES[name] | {"data": str(path)} | settings}, [[name]])
    return main(["check", str(write_toml(made, tmp_path / "study.toml"))])


@pytest.mark.parametrize(("name", "what"), [(name, what) for name, some in LOOKED_AT.items() for what in some])
def test_files_are_looked_at_before_anything_is_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, what: str
) -> None:
    rows, words = LOOKED_AT[name][what]
    assert check(tmp_path, name, rows) == 2
    said = capsys.readouterr().err
    assert re.search(words, said) and f"stages.{name}.data" in said and said.count("\n") == 1


def test_what_a_file_holds_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in chats(tmp_path / "chats.jsonl").read_text().splitlines()]
    assert check(tmp_path, "C", rows) == 0 and "stages.C.data: 40 chats\n" in capsys.readouterr().out
    assert check(tmp_path, "C", [*rows, say("delete", "zebras")]) == 0
    assert "stages.C.data: tiny cannot read 1 of the first 41 episodes; " in capsys.readouterr().out
    assert check(tmp_path, "C", [{"messages": [rows[0]["messages"][0], CALLING], "tools": NULL}]) == 0
    assert "stages.C.data: 1 chat\n" in capsys.readouterr().out
    assert check(tmp_path, "C", rows, max_length=3) == 2
    assert "every row has more than max_length 3 tokens; raise it" in capsys.readouterr().err
    level = {"score_chosen": 1, "score_rejected": 1}
    assert check(tmp_path, "P", [prefer(**level), prefer(chosen="done", rejected="no")]) == 0
    told = "2 pairs (2 of them stand the other way round too, 1 of them have equal scores)\n"
    assert f"stages.P.data: {told}" in capsys.readouterr().out


def test_held_out_cases_are_known_in_disguise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held_out = split_cases(load(write_toml(study({}, []), tmp_path / "study.toml")).suite, 0)["test"]
    answer = {"role": "assistant", "content": "no"}

    def change(case: Case, what: str) -> list[dict[str, Any]]:
        told = chat_messages(case.messages)
        texts = {"case": str.upper, "space": lambda text: f" {text.replace(' ', chr(160) * 2)}\n", "parts": list}
        texts["punctuation"] = lambda text: text.replace(".", " !")
        said = [one | {"content": texts[what](one["content"])} if what in texts else one for one in told]
        if what == "parts":
            said = [one | {"content": [{"type": "text", "text": letter} for letter in one["content"]]} for one in said]
        if what == "system":
            said = [one for one in said if one["role"] != "system"]
        return [*said, answer, {"role": "user", "content": "delete"}, answer] if what == "goes on" else [*said, answer]

    ways = ("case", "space", "parts", "punctuation", "system", "goes on")
    rows: list[Any] = [{"messages": change(case, what)} for case, what in zip(held_out, ways, strict=False)]
    assert len(rows) == len(ways)
    assert check(tmp_path, "C", [*rows, say("delete the report")]) == 0
    assert "7 chats, 6 of them left out, as held-out cases open so" in capsys.readouterr().out
    assert check(tmp_path, "C", rows) == 2
    assert "every row opens as a held-out case does; give others" in capsys.readouterr().err
    # Sides that share more than the prompt open as the case does all the same.
    before = change(held_out[0], "goes on")[:-1]
    sides = {side: [*before, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    assert check(tmp_path, "P", [sides]) == 2
    assert "every row opens as a held-out case does" in capsys.readouterr().err


def test_other_cases_are_not_held_out() -> None:
    asked = Message(role="user", content="Delete the report.")
    case = Case(id="a", suite="s", number=0, family="f", messages=(Message(role="system", content="One."), asked))
    found = openings_of([case])
    for opening in ((Message(role="system", content="Two."), asked), (replace(asked, content="Delete the reports."),)):
        assert opening_of(opening) not in found
    assert opening_of(case.messages) in found and opening_of((asked,)) in found


def test_turns_of_weight_0_and_words_without_a_token(tmp_path: Path) -> None:
    """Turns that do not count may say what the model has no token for; what it cannot read is counted."""
    from holdfast.exchange.datasets.chats import read_chats
    from holdfast.models.tiny.chat import SPECIALS, TinyChat

    asked, said = say("yes", "no")["messages"]
    good = {"messages": [asked, {**said, "content": "zebras", "weight": 0}, asked, said]}
    rows = [good, *(say(f"yes {n}") for n in range(18)), say("yes", "zebras")]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    chat = TinyChat((*SPECIALS, "no", "yes"), {})
    found = read_chats(path).chats
    stage = DemonstrationSection()
    encoded, errors = encode_rows(path, found, chat, stage, reads=128)
    assert len(encoded) == 19 and len(errors) == 1 and "rows.jsonl: line 20: the agent says words" in errors[0]
    (first, *_) = encoded.values()
    assert first.agent.sum() == 4 and first.agent[-4:].all()
    with pytest.raises(StudyError, match="20 of 20 rows, more than a twentieth, cannot be read by the model"):
        encode_rows(path, found, chat, stage, reads=3)
    short = stage.model_copy(update={"max_length": 3})
    assert len(encode_rows(path, found, chat, short, reads=3)[0]) == 19
    with pytest.raises(StudyError, match="line 1: a turn has weight 0, and loss_mask 'completion' learns from all"):
        encode_rows(path, found[:2], chat, stage.model_copy(update={"loss_mask": "completion"}), reads=128)


def test_a_share_of_flipped_pairs_is_part_of_what_a_stage_is(tmp_path: Path) -> None:
    """A file's pairs have no pair step that could tell."""
    path = str(preferences(tmp_path / "pairs.jsonl"))
    made = [
        build(Study.model_validate(study({"P": {"objective": "safety", "data": path, "flip": flip}}, [["P"]])))
        for flip in (0.0, 0.5)
    ]
    trained = [{one.fingerprint for one in plan.steps if " · P" in one.name and one.kind == "train"} for plan in made]
    assert len(trained[0]) == 1 and not trained[0] & trained[1]


@pytest.mark.full
def test_both_files_train_a_model_of_another_kind(tmp_path: Path) -> None:
    """Chats by sft, then pairs by dpo, on a random Qwen2 whose template writes tools and calls."""
    stages = {
        "C": {"method": "sft", "data": str(chats(tmp_path / "chats.jsonl")), "epochs": 1, "lora_r": 4},
        "P": {"objective": "safety", "data": str(preferences(tmp_path / "pairs.jsonl")), "epochs": 1, "flip": 0.5},
    }
    made = {"kind": "random", "vocabulary": 600}
    settings = study(stages, [["C"], ["C", "P"]], models={"made": made})
    settings["model"] = {"bases": ["made"]}
    run(load(write_toml(settings, tmp_path / "study.toml")), tmp_path / "run", workers=1)
    found = results(tmp_path / "run")
    assert found["C"]["episodes"] == 40 and found["C"]["doses"][0]["steps"] == 2
    assert found["C,P"]["distinct_pairs"] > 20 and found["C,P"]["doses"][0]["drift_chosen"] != 0


def test_steps_of_families() -> None:
    """An epoch holds each demonstration once; full steps are of one family, what is left makes mixed ones."""
    families = ["a"] * 9 + ["b"] * 5 + ["c"] * 2
    order = family_steps(families, batch_size=4, rng=np.random.default_rng(0))
    for _ in range(3):
        epoch = [next(order).tolist() for _ in range(count_steps(families, 4))]
        assert sorted(number for step in epoch for number in step) == list(range(16))
        kinds = [{families[number] for number in step} for step in epoch]
        assert sum(len(kind) == 1 and len(step) == 4 for kind, step in zip(kinds, epoch, strict=True)) >= 3
    mixed = family_steps([""] * 16, batch_size=5, rng=np.random.default_rng(0))
    assert [len(next(mixed)) for _ in range(count_steps([""] * 16, 5))].count(5) == 3


def test_the_study_as_a_dictionary_holds_its_files(tmp_path: Path) -> None:
    settings = study({"C": {"method": "sft", "data": str(chats(tmp_path / "c.jsonl"))}}, [["C"]])
    assert len(Study.model_validate(settings).stages["C"].digest or "") == 64
