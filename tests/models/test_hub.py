"""Model directories from elsewhere: what could run code is refused, what is damaged is named."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from builders.chat_samples import make_base

from holdfast.models.directories.files import digest_weights
from holdfast.models.hub import hub
from holdfast.records.errors import StudyError

pytest.importorskip("transformers")
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("hub") / "good")


@pytest.fixture
def base(good: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(good, tmp_path / "model"))


def change(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_a_directory_is_taken_as_it_is(base: Path) -> None:
    assert hub.resolve(str(base)) == base
    assert hub.describe(base) == {"digest": digest_weights(base), "revision": None}
    with pytest.raises(StudyError, match="a directory has no revision"):
        hub.resolve(str(base), "main")


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "other/repo--evil.Config"}, "model_type": "evil"}, "auto_map"),
        ("config.json", {"trust_remote_code": True}, "trust_remote_code"),
        ("config.json", {"_attn_implementation_internal": "other/kernel"}, "_attn_implementation_internal"),
        ("config.json", {"_attn_implementation": "other/kernel"}, "_attn_implementation"),
        ("config.json", {"text_config": {"layers": [{"auto_map": {"AutoConfig": "evil.Config"}}]}}, "auto_map"),
        ("generation_config.json", {"trust_remote_code": True}, "trust_remote_code"),
    ],
)
def test_settings_that_ask_to_run_code_are_refused(base: Path, name: str, settings: dict[str, Any], key: str) -> None:
    change(base / name, **settings)
    with pytest.raises(StudyError, match=rf"{name}: asks to run code of its own \({key}\)"):
        hub.resolve(str(base))


def test_settings_that_ask_for_nothing_pass(base: Path) -> None:
    change(base / "config.json", trust_remote_code=False, _attn_implementation="sdpa", auto_map={})
    assert hub.resolve(str(base)) == base
    change(base / "config.json", auto_map=None)
    with pytest.raises(StudyError, match=r"its auto_map is null, which transformers does not read; take it out"):
        hub.resolve(str(base))


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickles_are_never_loaded(base: Path, name: str) -> None:
    (base / name).write_bytes(pickle.dumps(Bomb()))
    assert hub.resolve(str(base)) == base  # it has weights in safetensors, and these are read
    (base / "model.safetensors").unlink()
    with pytest.raises(StudyError, match=rf"pickle weights \({name}\) are not loaded; convert to safetensors"):
        hub.resolve(str(base))


def test_an_index_leads_to_no_pickle_and_out_of_no_directory(base: Path) -> None:
    index = base / "model.safetensors.index.json"
    for name, reason in (
        ("pytorch_model.bin", "pickle weights"),
        ("../model.safetensors", "names no weights beside it"),
        ("model-2.safetensors", "names model-2.safetensors, which is not there"),
    ):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(StudyError, match=reason):
            hub.resolve(str(base))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: struct.pack("<Q", 1 << 60) + data[8:],
        lambda data: data[:8] + b"\xff" * 16 + data[24:],
        lambda data: data + b"more",
    ],
)
def test_damaged_weights_are_named(base: Path, damage: Any) -> None:
    path = base / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StudyError, match=r"model\.safetensors: is damaged \(.+\); fetch the model again"):
        hub.resolve(str(base))


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, "\xff"])
def test_damaged_settings_are_named(base: Path, text: str) -> None:
    (base / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StudyError, match=r"config\.json: (cannot be read|is no JSON object)"):
        hub.resolve(str(base))


def test_no_model_at_all(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"holds no config\.json"):
        hub.resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StudyError, match="holds no weights in safetensors"):
        hub.resolve(str(tmp_path))
    for name in ("./nowhere", "a/b/c", "https://example.org/model", "../x"):
        with pytest.raises(StudyError, match="no such directory, and no name of a repository"):
            hub.resolve(name)


@pytest.fixture
def offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_repository_of_the_cache_is_found_and_its_commit_recorded(good: Path, offline_cache: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = offline_cache / "models--lab--small"
    shutil.copytree(good, place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    for revision in (None, "main", commit):
        found = hub.resolve("lab/small", revision)
        assert hub.describe(found) == {"digest": digest_weights(good), "revision": commit}
    with pytest.raises(StudyError, match=r"lab/small in revision v2: .*HF_HUB_OFFLINE is set"):
        hub.resolve("lab/small", "v2")


def test_what_is_neither_cached_nor_reachable_is_told_in_one_line(offline_cache: Path) -> None:
    with pytest.raises(StudyError, match="it is not in the hub's cache, and HF_HUB_OFFLINE is set") as caught:
        hub.resolve("lab/nothing")
    assert "\n" not in str(caught.value)


def test_the_hub_is_never_asked_for_pickles_or_code(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    offered = ["model.safetensors", "config.json", "pytorch_model.bin", "evil.py", "original/x.safetensors", "a.pkl"]
    taken: list[str] = []

    def fetch(
        name: str,
        *,
        revision: str | None,
        allow_patterns: list[str],
        ignore_patterns: list[str],
        local_files_only: bool,
    ) -> str:
        assert not local_files_only
        taken.extend(filter_repo_objects(offered, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
        return str(good)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert hub.resolve("lab/small") == good
    assert taken == ["model.safetensors", "config.json"]
