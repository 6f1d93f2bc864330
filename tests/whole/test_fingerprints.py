"""What steps are called by does not change: a run of before goes on, and nothing is paid or trained twice.

A fingerprint that changes on purpose is written anew with ``python tests/whole/test_fingerprints.py``, and the
changelog says so.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from builders.places import ROOT, data_file

from holdfast.runs.build import build
from holdfast.study.study import load

STUDIES = ROOT / "studies"
STORED = Path(__file__).parent / "fingerprints"
NAMES = ("smoke", "quick", "office-full", "repair", "approval-quick", "approval-arms", "approval-joined", "published")


def list_steps(name: str) -> list[str]:
    """The beginning of its fingerprint and the kind of every step of a study's plan, in its order."""
    files = [f"suite.{key}={data_file(f'toolemu-{key}.json')}" for key in ("cases", "toolkits")]
    study = load(STUDIES / f"{name}.toml", changes=files if name == "published" else ())
    return [f"{step.fingerprint[:16]} {step.kind}" for step in build(study).steps]


@pytest.mark.parametrize("name", NAMES)
def test_every_step_has_the_fingerprint_it_had(name: str) -> None:
    assert list_steps(name) == (STORED / f"{name}.txt").read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    for one in NAMES:
        (STORED / f"{one}.txt").write_text("\n".join(list_steps(one)) + "\n", encoding="utf-8")
