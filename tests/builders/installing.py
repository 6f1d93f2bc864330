"""Installing as users do it: the Pythons of this machine, environments of their own, an image's instructions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from builders.places import ROOT

VERSIONS = ("3.11", "3.12", "3.13")


@cache
def find_pythons() -> dict[str, str]:
    """The interpreters that are here, by version: this one, on the path, of pyenv, of uv. A shim may lead nowhere."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    homes = {"pyenv": os.environ.get("PYENV_ROOT", "~/.pyenv"), "uv": "~/.local/share/uv"}
    for version in VERSIONS:
        kept = [
            *Path(homes["pyenv"]).expanduser().glob(f"versions/{version}.*/bin/python{version}"),
            *Path(homes["uv"]).expanduser().glob(f"python/cpython-{version}.*/bin/python{version}"),
        ]
        for place in filter(None, (shutil.which(f"python{version}"), *map(str, sorted(kept)))):
            probe = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
            told = subprocess.run([place, "-c", probe], capture_output=True, text=True, check=False)
            if told.stdout.strip() == version:
                found.setdefault(version, place)
    return {version: found[version] for version in VERSIONS if version in found}


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without what would let a process find this checkout, or another environment."""
    gone = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE", "COLUMNS")
    kept = {name: value for name, value in os.environ.items() if name not in gone and not name.startswith("COV")}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def run(words: Sequence[object], where: Path, environment: Mapping[str, str] | None = None, code: int = 0) -> str:
    """What a command prints; it has to end with ``code``."""
    told = subprocess.run(
        [str(word) for word in words],
        cwd=where,
        env=clean_environment() if environment is None else environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == code, f"{words}: {told.returncode}\n{told.stdout[-3000:]}\n{told.stderr[-3000:]}"
    return told.stdout


def make_environment(folder: Path, python: str = sys.executable) -> Path:
    """A new environment; its interpreter."""
    run([python, "-m", "venv", folder], folder.parent)
    return folder / "bin" / "python"


def pip_install(python: Path, where: Path, *what: object) -> None:
    """Install into an environment, held to the versions that the project is tested with."""
    pinned = ("--constraint", ROOT / "constraints.txt")
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pinned, *what], where)


def read_stages(path: Path) -> list[list[tuple[str, str]]]:
    """The instructions of a Dockerfile by stage, lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    stages: list[list[tuple[str, str]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stages.append([])
        stages[-1].append((word, re.sub(r"\s+", " ", rest)))
    return stages
