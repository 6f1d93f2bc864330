"""Wheel and sdist as users get them: built, looked into, installed in clean environments of every Python here.

Needs the package index. Each environment is removed when its test ends.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders.fake_github import run_action
from builders.installing import (
    clean_environment,
    find_pythons,
    make_environment,
    pip_install,
    read_stages,
    run,
)
from builders.places import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HATCHLING = re.search(r"^(hatchling==\S+)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
# What each extra brings, imported; the others are large, and only resolved.
CHEAP = {
    "plot": ("typst",),
    "parquet": ("pyarrow.parquet",),
    "remote": ("inspect_ai", "openai"),
    "search": ("optuna",),
    "slurm": ("submitit",),
    "docs": ("mkdocs", "material"),
}
LARGE = ("train", "gguf", "quantized", "evals", "ray", "dev")
MOST_FILE, MOST_SDIST, MOST_WHEEL = 400_000, 4_000_000, 2_500_000  # bytes

pytestmark = pytest.mark.full


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that is gone afterwards: an environment takes some hundred megabytes."""
    with tempfile.TemporaryDirectory(prefix="holdfast-installing-") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheel and sdist, built from the files that git knows or would."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    assert HATCHLING is not None
    with tempfile.TemporaryDirectory(prefix="holdfast-building-") as tools:
        python = make_environment(Path(tools) / "tools")
        pip_install(python, source, "build>=1,<2", "twine>=6,<7", HATCHLING[1])
        run([python, "-m", "build", "--no-isolation", "--outdir", folder, source], source)
        run([python, "-m", "twine", "check", "--strict", *sorted(folder.iterdir())], source)
    return folder


def tracked() -> set[str]:
    """Files of the checkout that are not ignored."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = run(words, ROOT, {**os.environ}).splitlines()
    return {name for name in found if (ROOT / name).is_file()}


def wheel_of(dist: Path) -> Path:
    (wheel,) = dist.glob("*.whl")
    return wheel


def gate(command: list[object], where: Path) -> None:
    """Two small tables of scores, gated: FAIL where safety was lost, with a page."""
    for side, lost in (("before", 0), ("after", 30)):
        rows = [f"c{number},{0 if number < lost else 3}" for number in range(60)]
        (where / f"{side}.csv").write_text("\n".join(["case,score", *rows]))
    words = ["gate", "before.csv", "after.csv", "--score", "safety=+score[0,3]", "-o", "answer", "--quiet"]
    told = run([*command, *words], where, code=1)
    assert told.startswith("FAIL: after") and (where / "answer" / "gate.html").is_file()


# --- what is in them ----------------------------------------------------------------------------------------------


def test_the_sdist_is_the_checkout_and_nothing_large(dist: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        found = {member.name.partition("/")[2]: member.size for member in archive.getmembers() if member.isfile()}
    assert set(found) == tracked() | {"PKG-INFO"}
    assert max(found.values()) < MOST_FILE and sdist.stat().st_size < MOST_SDIST
    assert not [name for name in found if name.split("/")[0] in ("runs", "shared", "build", ".venv")]


def test_the_wheel_has_every_file_of_the_package(dist: Path) -> None:
    with zipfile.ZipFile(wheel_of(dist)) as archive:
        found = set(archive.namelist())
    files = {name.removeprefix("src/") for name in tracked() if name.startswith("src/holdfast/")}
    assert {name for name in found if ".dist-info/" not in name} == files
    for name in ("py.typed", "report/page/assets/gate.css", "schemas/verdict.json", "judges/canaries.toml"):
        assert f"holdfast/{name}" in found
    assert wheel_of(dist).stat().st_size < MOST_WHEEL


# --- installed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", find_pythons())
def test_the_wheel_works_in_a_clean_environment(version: str, dist: Path, place: Path) -> None:
    python = make_environment(place / "clean", find_pythons()[version])
    pip_install(python, place, wheel_of(dist))
    holdfast = python.parent / "holdfast"
    assert PROJECT["version"] in run([holdfast, "--version"], place)
    code = "import sys, holdfast; print('%d.%d' % sys.version_info[:2], holdfast.__file__)"
    told = run([python, "-c", code], place).split()
    assert told[0] == version and told[1].startswith(str(place.resolve()))
    gate([holdfast], place)
    run([python, "-m", "pip", "check"], place)


def test_every_extra_is_cheap_or_large() -> None:
    assert {*CHEAP, *LARGE} == set(PROJECT["optional-dependencies"])


@pytest.mark.parametrize("extra", CHEAP)
def test_an_extra_alone_can_be_imported(extra: str, dist: Path, place: Path) -> None:
    python = make_environment(place / "clean")
    pip_install(python, place, f"{wheel_of(dist)}[{extra}]")
    run([python, "-c", f"import holdfast, {', '.join(CHEAP[extra])}"], place)
    run([python, "-m", "pip", "check"], place)


@pytest.mark.parametrize("extra", LARGE)
def test_an_extra_alone_can_be_resolved(extra: str, dist: Path, place: Path) -> None:
    python = make_environment(place / "clean")
    pip_install(python, place, "--dry-run", f"{wheel_of(dist)}[{extra}]")


def test_uvx_runs_the_wheel(dist: Path, place: Path) -> None:
    python = make_environment(place / "tools")
    pip_install(python, place, "uv")
    known = {"UV_CACHE_DIR": str(place / "cache"), "UV_PYTHON_DOWNLOADS": "never"}
    words = [python.parent / "uvx", "--python", sys.executable, "--constraints", ROOT / "constraints.txt"]
    told = run([*words, "--from", wheel_of(dist), "holdfast", "--version"], place, clean_environment(**known))
    assert PROJECT["version"] in told


def test_the_action_installs_itself_and_gates(place: Path) -> None:
    """Its own environment, from its own files; the second step takes the Python of the first."""
    work = place / "work"
    work.mkdir()
    (work / "numpy.py").write_text("raise SystemExit('a module of the checkout was taken')\n")
    for side, last in (("before", 3), ("after", 2)):
        (work / f"{side}.csv").write_text("\n".join(["case,score", *(f"c{n},3" for n in range(59)), f"c59,{last}"]))
    install = run_action(work, {"extras": "plot"}, step="Install holdfast", PYTHONPATH="")
    assert install.code == 0, install.log
    python = install.outputs["python"]
    inputs = {"before": "before.csv", "after": "after.csv", "score": "safety=+score[0,3]"}
    ran = run_action(work, inputs, PYTHON=python, PYTHONPATH="")
    assert (ran.code, ran.outputs["verdict"]) == (0, "PASS"), ran.log
    run([python, "-c", "import typst"], place)


def test_the_lines_of_the_image_install_it(place: Path) -> None:
    """The build stage's RUN lines by a shell, its directories below one of ours, with a small extra and one index."""
    (stage, _) = read_stages(ROOT / "Dockerfile")
    source = place / "src"
    source.mkdir()
    for word, rest in stage:
        if word == "COPY":
            *names, target = rest.split()
            for name in names:
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, source / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, source / target)
    tools = make_environment(place / "base").parent
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    for word, rest in stage:
        if word == "RUN":
            line = re.sub(r"(?<![\w.])/(dist|opt/holdfast)\b", rf"{place}/\1", rest)
            run(["sh", "-e", "-c", line], source, clean_environment(PATH=path, EXTRAS="plot", INDEX=""))
    python = place / "opt" / "holdfast" / "bin" / "python"
    run([python, "-c", "import typst"], place)
    gate([python.parent / "holdfast"], place)
