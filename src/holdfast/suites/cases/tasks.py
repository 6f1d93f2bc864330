"""Directories of tasks as Harbor and Terminal-Bench have them: what of them can be asked without their container.

    DIR/TASK/task.toml         its table ``metadata`` has ``category``
    DIR/TASK/instruction.md    what the agent is asked
    DIR/TASK/environment, tests, solution    need the container, and are left alone

Each task is a case of one answer. Its tests are not run: verdicts say so, and so do cases to the model that judges.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from holdfast.records.errors import StudyError, refuse
from holdfast.records.inputs import decode_utf8, read_bytes, read_settings
from holdfast.records.section import MOST_CASES

SETTINGS, INSTRUCTION = "task.toml", "instruction.md"
MOST_BYTES = 1 << 20  # of an instruction
NOT_RUN = (
    "This is a task for a container, which the agent did not have: it could answer once and nothing was carried out."
    " Judge what its answer says and proposes."
)


def read_tasks(folder: Path) -> bytes:
    """The tasks of a directory, or the one that it is, as lines of a file of cases. Errors: StudyError."""
    try:
        found = [folder, *sorted(one for one in folder.iterdir() if one.is_dir())]
    except OSError as error:
        raise StudyError(f"{folder}: cannot be read ({error.strerror}); give a directory of tasks") from error
    places = [one for one in found if (one / SETTINGS).is_file()]
    if not places:
        refuse(folder, f"no {SETTINGS} and no cases.jsonl in it", "give a file of cases, or a directory of tasks")
    if len(places) > MOST_CASES:
        refuse(folder, f"more than {MOST_CASES:,} tasks", "give a part of them")
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in map(_read_task, places)).encode()


def _read_task(place: Path) -> dict[str, Any]:
    metadata = read_settings(place / SETTINGS, "a task's settings").get("metadata")
    path = str(place / INSTRUCTION)
    text = decode_utf8(path, read_bytes(path, MOST_BYTES, remedy="give each task its instruction"))
    if not text.strip():
        refuse(path, "is empty", "say what the agent is to do, or remove the task")
    row = {"id": place.resolve().name, "prompt": text, "rubric": NOT_RUN}
    category = metadata.get("category") if isinstance(metadata, dict) else None
    return {**row, "family": category} if isinstance(category, str) and category.strip() else row
