"""What several tests need: the published data as runs and a finished small study, made once a session."""

from __future__ import annotations

import fcntl
import gc
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.places import STUDIES, data_file
from no_skips import pytest_sessionfinish, pytest_terminal_summary  # noqa: F401 — hooks
from tolerances import needs_kernels, reason_left_out

import holdfast as hf
from holdfast.exchange.published import import_into

SMOKE = STUDIES / "smoke.toml"


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks every test that compares numbers with a tolerance, where `make test-kernels` asks for these.

    Finding them reads all tests anew, which takes each process five seconds.
    """
    if "kernels" in config.getoption("markexpr"):
        mark_kernels(items)


def mark_kernels(items: list[pytest.Item]) -> None:
    """Marks those that compare with a tolerance and are not left out."""
    for item in items:
        name = getattr(item, "originalname", item.name)
        if needs_kernels(item.path, name) and reason_left_out(item.path, name) is None:
            item.add_marker(pytest.mark.kernels)


def pytest_collection_finish() -> None:
    """What libraries and collected tests keep in memory stays to the end: collections of garbage pass it by.

    Not before Hypothesis is imported, which asks then who holds trio's generator, and is not told of what is passed by.
    """
    if "hypothesis" in sys.modules:
        gc.collect()
        gc.freeze()


def shared_root(factory: pytest.TempPathFactory) -> Path:
    """A directory that every worker of this test session sees."""
    root = factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root


def imported(name: str, factory: pytest.TempPathFactory) -> Path:
    """A run with the archive in it, made by whichever worker comes first."""
    source = data_file(f"published-{name}.tar.zst")
    root = shared_root(factory)
    run = root / f"published-{name}"
    with (root / f"published-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not run.exists():
            import_into(source, run)
    return run


@pytest.fixture(scope="session")
def published_match(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the published evaluation set."""
    return imported("match", tmp_path_factory)


@pytest.fixture(scope="session")
def published_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the published source of preference pairs."""
    return imported("raw", tmp_path_factory)


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """The numbers that the published analysis gives on the same data."""
    found: dict[str, Any] = json.loads(data_file("golden-match.json").read_text())
    return found


@pytest.fixture(scope="session")
def base_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of bases for this session alone, so that each base is taught once."""
    path = shared_root(tmp_path_factory) / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOLDFAST_CACHE", str(path))
        yield path


@pytest.fixture(scope="session")
def smoke_run(base_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run of studies/smoke.toml, made by whichever worker comes first; tests only read it."""
    root = shared_root(tmp_path_factory)
    with (root / "smoke.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "smoke" / "analysis.json").exists():
            hf.run(SMOKE, root / "smoke", workers=1)
    return root / "smoke"


@pytest.fixture(autouse=True)
def terminal_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test prints for the same width: tables are cut to the terminal's, and terminals and launchers differ."""
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(autouse=True)
def answers_aside(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A gate that is asked in this process without ``-o`` leaves its answer in the test's own directory."""
    if "tmp_path" in request.fixturenames or "capsys" in request.fixturenames:
        from holdfast.cli import gate

        made = gate.new_place
        folder = request.getfixturevalue("tmp_path")
        monkeypatch.setattr(gate, "new_place", lambda today: folder / made(today))


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread: sums are then taken in one order; `make test-kernels` takes them on two as well."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("HOLDFAST_KERNEL_THREADS", "1")))
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def in_64_bits() -> Iterator[None]:
    """Torch computes in 64 bits what ships in 32, for tests of formulas rather than of rounding."""
    import rounding

    with rounding.in_64_bits():
        yield


@pytest.fixture(scope="module")
def module_in_64_bits() -> Iterator[None]:
    """The same from the module's own fixtures on; for modules that share no model with others."""
    import rounding

    with rounding.in_64_bits():
        yield


@pytest.fixture(scope="session")
def llama_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama of transformers, to be read only."""
    from builders.tree_samples import build_hub

    return build_hub(tmp_path_factory.mktemp("models") / "llama", "llama")


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of ours with weights that tell tokens apart, to be read only."""
    from builders.tree_samples import build_tiny

    return build_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def loop_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the loops of tests train, to be read only."""
    from builders.tiny_office import make_model

    return make_model(tmp_path_factory.mktemp("loop") / "base")


@pytest.fixture(scope="session")
def loop_steps(loop_base: Path) -> list[Any]:
    """The steps that they take."""
    from builders.loop_samples import make_steps

    return make_steps(loop_base)
