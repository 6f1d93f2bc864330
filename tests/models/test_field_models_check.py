"""Field cases of models (H): what check finds, and what is read without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.chat_samples import make_other
from builders.field_models import NORM, SMALL_MOE, add, drop_tensor, gate, problem, study
from builders.peft_samples import rewrite, save_adapter
from builders.places import case_input
from builders.smoke_study import write_toml
from safetensors.torch import load_file

import holdfast as hf
from holdfast.cli.main import main
from holdfast.models.directories.peft import read_peft
from holdfast.models.hub import hub
from holdfast.models.local.local import LocalModel
from holdfast.runs.readiness import PACKAGES
from holdfast.training.policy.adapters import open_policy

os.environ["HF_HUB_OFFLINE"] = "1"


pytest.importorskip("peft")


pytestmark = [
    pytest.mark.usefixtures("one_thread"),
]


def test_h_07_quantised_weights_are_told_before_anything_is_spent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU may compute them")
    case = case_input("H-07")
    monkeypatch.chdir(case)
    told = problem(capsys, *gate("./four-bit", tmp_path / "run"))
    assert "its weights are quantised (bitsandbytes, 4 bits), which this machine does not compute" in told
    assert "pip install -U bitsandbytes" in told and not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU may compute them")
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"quant_method": "gptq", "bits": 4}, r"quantised \(gptq, 4 bits\), which this machine does not compute"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, r"quantised \(awq, 4 bits\)"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, r"quantised \(compressed-tensors\)"),
        ({"quant_method": "made-up"}, r"quantised \(made-up\), which transformers does not know"),
    ],
)
def test_every_way_to_quantise_is_told(settings: dict[str, Any], told: str, base: Path) -> None:
    rewrite(base / "config.json", quantization_config=settings)
    for open_it in (hub.check_model, LocalModel):
        with pytest.raises(hf.StudyError, match=told):
            open_it(base)
    with pytest.raises(hf.StudyError, match="such weights are not trained; name the model in 16 bits"):
        open_policy(base)


H_08 = {
    "adapter": "its base 'base' (base_model_name_or_path) is no directory beside the adapter or here",
    "four-bit": "its weights are quantised",
    "short": "the tokenizer has 289 tokens, the model reads 258",
}


@pytest.mark.parametrize("name", H_08)
def test_h_08_check_finds_what_a_run_refuses(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(case_input("H-08"))
    assert H_08[name] in problem(capsys, "check", f"{name}.toml")


def test_h_08_what_a_run_opens_is_valid(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, base: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(case_input("H-08"))
    assert main(["check", "named.toml"]) == 0
    save_adapter(base, tmp_path / "adapter")
    assert main(["check", study(tmp_path, tmp_path / "adapter")]) == 0
    assert f"model m: {tmp_path / 'adapter'}, a LoRA adapter on {base}, in this process" in capsys.readouterr().out


def forget_template(base: Path) -> None:
    (base / "chat_template.jinja").unlink()


def break_json(name: str) -> Callable[[Path], None]:
    return lambda base: (base / name).write_text("{")


def lose(name: str) -> Callable[[Path], Any]:
    return lambda base: (base / name).unlink()


def shard(base: Path) -> None:
    """An index that names a shard which is lost."""
    names = dict.fromkeys(load_file(base / "model.safetensors"), "model-00001-of-00002.safetensors")
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    names[NORM] = "model-00002-of-00002.safetensors"
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


FOUND: dict[str, tuple[Callable[[Path], Any], str]] = {
    "shard": (shard, "names model-00002-of-00002.safetensors, which is not there"),
    "index": (
        lambda base: (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors"),
        "neither model.safetensors nor model.safetensors.index.json",
    ),
    "template": (forget_template, "has no chat template"),
    "tokenizer": (lose("tokenizer.json"), "holds no tokenizer (tokenizer.json)"),
    "config": (break_json("config.json"), "config.json: cannot be read"),
    "settings": (break_json("tokenizer_config.json"), "tokenizer_config.json: cannot be read"),
    "kind": (
        lambda base: rewrite(base / "config.json", model_type="vit"),
        "has no language model of kind 'vit' that takes texts alone",
    ),
    "unknown": (
        lambda base: rewrite(base / "config.json", model_type="made_up"),
        "transformers cannot read config.json",
    ),
    "misfit": (drop_tensor, "weights of the model are not in its files"),
    "head": (add("score.weight", 1, 64), "reward model's head"),
}


@pytest.mark.parametrize("kind", FOUND)
def test_check_and_gate_find_what_is_wrong_before_a_rollout(
    kind: str, base: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, told = FOUND[kind]
    change(base)
    path = study(tmp_path, base)
    assert told in problem(capsys, "check", path)
    for parent, child in ((good, base), (base, good)):
        output = tmp_path / "run"
        arguments = ["gate", "--suite", path, "--parent", str(parent), "--child", str(child), "-o", str(output)]
        assert told in problem(capsys, *arguments) and not output.exists()
        if child == base:
            assert told in problem(capsys, *arguments, "--again") and not output.exists()


def test_quantising_as_it_loads_is_checked_too(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU can quantise")
    told = problem(capsys, "check", study(tmp_path, base, 'quantization = "int4"'))
    assert "quantization int4 needs an NVIDIA GPU" in told
    save_adapter(base, tmp_path / "adapter")
    told = problem(capsys, "check", study(tmp_path, tmp_path / "adapter", 'quantization = "int4"'))
    assert "an adapter cannot be merged into quantised weights" in told


def test_a_tiny_model_with_other_weights_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from builders import tiny_office

    place = tiny_office.make_model(tmp_path / "tiny")
    (tmp_path / "study.toml").write_text(
        Path(study(tmp_path, place)).read_text().replace('kind = "local"', 'kind = "tiny"')
    )
    assert main(["check", str(tmp_path / "study.toml")]) == 0
    add("score.weight", 1, 96)(place)
    assert "reward model's head" in problem(capsys, "check", str(tmp_path / "study.toml"))


HIDE = """\
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "peft", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
"""
REMOTE = """\
import os, sys
from holdfast.cli.main import main
from holdfast.models.fakes import FakeProvider

if __name__ == "__main__":
    with FakeProvider(lambda request: "No.") as provider:
        os.environ |= {"FAKE_BASE_URL": provider.base_url, "FAKE_API_KEY": "key"}
        code = main(["gate", "--suite", "study.toml", "--parent", "remote/openai-api/fake/one", "--child",
                     "remote/openai-api/fake/two", "-o", "run", "--workers", "1"])
        print("code", code, len(provider.answered()), "torch" in sys.modules)
"""


def test_remote_models_are_gated_where_no_torch_is(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    (tmp_path / "remote.py").write_text(REMOTE)
    study(tmp_path, "nothing")
    source = Path(hf.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{source}"}
    done = subprocess.run(
        [sys.executable, "remote.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "code 3 8 False", done.stdout + done.stderr


def test_a_directory_without_torch_is_told_in_one_line(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.runs.readiness.PACKAGES", {**PACKAGES, "train": ("torch_that_is_absent",)})
    assert "packages torch_that_is_absent are missing" in problem(capsys, "check", study(tmp_path, base))


def test_a_base_of_an_adapter_is_read_without_torch(base: Path, tmp_path: Path) -> None:
    save_adapter(base, tmp_path / "adapter")
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    code = (
        "from pathlib import Path; from holdfast.models.hub import hub\n"
        "from holdfast.records.errors import MissingExtra\n"
        "try:\n    hub.resolve('adapter')\nexcept MissingExtra as error:\n    print(error)\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(hf.__file__).parents[1]}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert len(done.stdout.splitlines()) == 1 and "pip install" in done.stdout, done.stderr
    assert read_peft(tmp_path / "adapter").base == base


@pytest.mark.parametrize(
    ("kind", "rank", "told"),
    [
        ("doge", 4, "cannot train on trees (its layers add numbers of their own to the logits of attention)"),
        ("gpt2", 4, "none of its modules is one that adapters change"),
        ("gpt2", 0, ""),
        ("gpt_oss", 4, ""),
    ],
)
def test_what_a_stage_would_refuse_is_told_before_its_rollouts(
    kind: str, rank: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = make_other(tmp_path / "base", kind, **(SMALL_MOE if kind == "gpt_oss" else {}))
    settings = {
        "study": {"name": "other", "lineages": [["S"]]},
        "model": {"bases": ["m"]},
        "models": {"m": {"kind": "local", "name": str(place), "calls": "text"}},
        "stages": {"S": {"objective": "safety", "lora_r": rank}},
        "judges": {"state": {"kind": "state"}},
    }
    path = str(write_toml(settings, tmp_path / "study.toml"))
    if told:
        assert told in problem(capsys, "check", path)
    else:
        assert main(["check", path]) == 0
