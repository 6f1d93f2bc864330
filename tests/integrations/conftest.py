"""What tests of training loops share: a small agent as transformers saves models, and a suite of thirty cases."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from builders.chat_samples import make_base
from builders.training_loops import SUITE, save_start


@pytest.fixture(scope="session", autouse=True)
def settled() -> None:
    """What TRL keeps in memory stays: gates look for garbage again and again, which takes longer than they do."""
    pytest.importorskip("trl")
    import hypothesis  # before garbage is frozen, as the session's own conftest tells
    from trl import DPOTrainer, GRPOTrainer, SFTTrainer

    assert hypothesis and DPOTrainer and GRPOTrainer and SFTTrainer  # each is loaded when it is first named
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def start(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny agent that was taught the office, to be read only."""
    return save_start(smoke_run, tmp_path_factory.mktemp("loops") / "start")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a real architecture, whose random weights say nothing that can be judged, to be read only."""
    return make_base(tmp_path_factory.mktemp("loops") / "plain", hidden=32, heads=2)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study file; nothing is fetched."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    return path
