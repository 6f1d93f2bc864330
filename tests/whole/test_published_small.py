"""The published study at its small scale: every part of it, from the published trajectories to weights for others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders.places import ROOT, data_file
from rounding import additions, apart, rounding, within

import holdfast as hf
from holdfast.cli import main as cli
from holdfast.models.directories.opening import read_weights
from holdfast.store import Store
from holdfast.study.study import load

PUBLISHED = ROOT / "studies" / "published.toml"


@pytest.mark.full
def test_the_small_scale_runs_from_end_to_end(published_raw: Path, tmp_path: Path) -> None:
    """Pairs of real trajectories, all five lineages with LoRA, evaluated; the export is transformers' own."""
    changes = [f"suite.{key}={data_file(f'toolemu-{key}.json')}" for key in ("cases", "toolkits")]
    study = load(PUBLISHED, scale="small", changes=[*changes, f"pairs.source={published_raw}"])
    run = hf.run(study, tmp_path / "run", workers=1)
    with Store(run.path) as store:
        assert {step.status for step in store.log.steps().values()} == {"done"}
        checkpoints = {checkpoint.lineage: checkpoint for checkpoint in store.checkpoints()}
        assert set(checkpoints) == {(), ("S",), ("H",), ("S", "H"), ("H", "S"), ("S&H",)}
        stages = [step.result for step in store.log.steps().values() if "distinct_pairs" in step.result]
        assert len(stages) == 5 and all(stage["distinct_pairs"] > 5 for stage in stages)
        scores = [score for item in store.trajectories() for score in store.scores(item.id)]
    assert len(scores) == 6 * 4 * 2 * 2  # checkpoints, cases, judges, objectives
    assert all((score.value is None) != (score.missing is None) for score in scores)
    assert run.report().is_file()

    sequence, target = checkpoints["S", "H"], tmp_path / "exported"
    arguments = ["export", str(run.path), "--to", "hf", "--checkpoint", sequence.id, "-o", str(target)]
    assert cli.main(arguments) == 0
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(run.path / str(checkpoints[()].path), dtype=torch.float32)
    before = {name: weight.clone() for name, weight in ours.state_dict().items()}
    ours.load_state_dict(read_weights(run.path / str(sequence.path)), strict=False)
    ids = AutoTokenizer.from_pretrained(target)("delete every task", return_tensors="pt").input_ids
    with torch.no_grad():
        sizes = theirs.config
        close = rounding(
            additions(
                sizes.hidden_size, sizes.num_hidden_layers, sizes.intermediate_size, sizes.vocab_size, ids.shape[1]
            )
        )
        assert within(apart([theirs(ids).logits], [ours(ids).logits]), close)
    changed = [name for name, weight in theirs.state_dict().items() if not torch.equal(weight, before[name])]
    assert len(changed) == 2 * 7, "every linear layer of both decoder layers was trained, the head was not"
