"""The slice that a step is carried out with: rows of the run, the step itself, and which weights it opens.

SLICE/run.db      what the step reads of the run (``store.slices``)
SLICE/step.json   the step, and the attempt that the slice was written for
SLICE/attached…   the user's own file that a stage learns from, whose digest the step holds
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.records import Checkpoint
from holdfast.records.errors import StoreError
from holdfast.records.inputs import read_bytes
from holdfast.records.version import VERSION
from holdfast.runs.methods.files import Learning, attached_name, find_data
from holdfast.runs.plan.settings import RolloutSettings, StageSettings
from holdfast.runs.plan.step import Step
from holdfast.runs.plan.travel import read_step, write_step
from holdfast.store import Store
from holdfast.store.checking import refuse_links
from holdfast.store.database import PRIVATE_FILE
from holdfast.study.command import CommandSection
from holdfast.study.kinds import suite_of

STEP_FILE = "step.json"
_MOST_STEP = 64 << 20  # bytes of it: a study's tables hold cases where a suite is a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A slice at ``path``: its step, the name of the ``attempt``, and the digests of the ``weights`` that it opens.

    ``digest`` is that of all that is in it.
    """

    path: Path
    step: Step
    attempt: str
    weights: tuple[str, ...]
    digest: str

    def require(self, attempt: str, digest: str) -> None:
        """Refuse another slice than the driver wrote. Errors: StoreError."""
        if (self.attempt, self.digest) != (attempt, digest):
            raise StoreError(f"{self.path}: is not the slice that the driver wrote; it is not carried out")


def cut(store: Store, step: Step, attempt: str, target: Path) -> str:
    """Write the slice of a step into the new directory ``target``; the digest of all that is in it.

    Errors: StoreError where it cannot be written or the step cannot travel, StepError where the file that it learns
    from is gone or has changed.
    """
    text = write_step(step)
    checkpoint = None
    if isinstance(step.settings, RolloutSettings) and suite_of(step.settings.suite).shared:
        checkpoint = step.settings.checkpoint  # of its episodes some may have been met by another step
    digest = store.write_slice(target, step=step.fingerprint, inputs=step.inputs, checkpoint=checkpoint)
    document = {
        "holdfast": VERSION,
        "attempt": attempt,
        "weights": _weights_of(step, store.checkpoints(brought=True)),
        "step": text,
    }
    (target / STEP_FILE).write_text(json.dumps(document, indent=1), encoding="utf-8")
    (target / STEP_FILE).chmod(PRIVATE_FILE)
    _attach(step, target)
    return _digest(target, digest)


def _attach(step: Step, target: Path) -> None:
    """Put the file beside the slice that its step learns from. Errors: StepError where it is gone or has changed."""
    if not isinstance(step.settings, StageSettings):
        return
    section = step.settings.section
    if isinstance(section, Learning | CommandSection) and section.digest is not None:
        _, held = find_data(step.settings.stage, section)
        place = target / attached_name(section)
        place.write_bytes(held)
        place.chmod(PRIVATE_FILE)


def _digest(path: Path, rows: str) -> str:
    """The digest of a slice: of its rows, and of what stands beside them."""
    return hashlib.sha256(rows.encode() + b"\n" + (path / STEP_FILE).read_bytes()).hexdigest()


def read_slice(path: Path) -> Slice:
    """The slice at ``path``, its rows held against their digests.

    Errors: StoreError for what is none, or was changed.
    """
    refuse_links(path)
    raw = read_bytes(path / STEP_FILE, _MOST_STEP, remedy="give a directory that a driver wrote for a step")
    place = str(path / STEP_FILE)
    try:
        document: dict[str, Any] = json.loads(raw)
        version, attempt, text = document["holdfast"], str(document["attempt"]), str(document["step"])
        weights = tuple(map(str, document["weights"]))
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise StoreError(
            f"{place}: is no step's slice ({type(error).__name__}); give one that a driver wrote"
        ) from error
    if version != VERSION:
        raise StoreError(f"{place}: was written by holdfast {version!r:.40}, this is {VERSION}; install the same here")
    step = read_step(text, place)
    fingerprint, _, number = attempt.partition("~")
    if fingerprint != step.fingerprint or not number.replace("-", "").isalnum():
        raise StoreError(f"{place}: {attempt[:80]!r} is no attempt at this step; give a slice that a driver wrote")
    if not all(len(one) == 64 and one.isalnum() for one in weights):
        raise StoreError(f"{place}: names weights by no digest; give a slice that a driver wrote")
    with Store(path) as store:  # which holds its rows against their digests
        digest = _digest(path, store.digest() or "")
    return Slice(path=path, step=step, attempt=attempt, weights=weights, digest=digest)


def _weights_of(step: Step, checkpoints: list[Checkpoint]) -> list[str]:
    """Digests of the weights that a step may open: of the checkpoints it names, what they stand on, and their base."""
    known = {one.id: one for one in checkpoints}
    bases = {one.base: one.id for one in checkpoints if not one.stages}
    named = json.dumps(step.settings.dump(), default=list)
    waiting = [identity for identity in known if f'"{identity}"' in named]
    wanted: dict[str, None] = {}
    for identity in waiting:
        one = known[identity]
        if one.digest is not None and one.path is not None:
            wanted[Path(one.path).name] = None
        more = (one.parent_id, bases.get(one.base))
        waiting += [name for name in more if name is not None and name in known and name not in waiting]
    return list(wanted)
