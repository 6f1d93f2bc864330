"""Where a loop's numbers go besides its own log: any tracker that accelerate knows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from holdfast.records.errors import StudyError


def open_tracker(name: str, folder: Path, config: Mapping[str, Any]) -> Any:
    """accelerate's tracker of a name, started with a configuration; it has ``log(values, step=…)`` and ``finish()``.

    Trackers that write files write them under ``folder``. Errors: StudyError for a name that accelerate does not know
    or whose package is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
    if name not in known:
        raise StudyError(f"tracker {name!r} is not among those that accelerate knows: {', '.join(known)}")
    kind = LOGGER_TYPE_TO_CLASS[name]
    if name not in [str(tracker) for tracker in get_available_trackers()]:
        raise StudyError(f"tracker {name!r}: its package is not installed; pip install {name.replace('_', '-')}")
    folder.mkdir(parents=True, exist_ok=True)
    tracker = kind("holdfast", logging_dir=folder) if kind.requires_logging_directory else kind("holdfast")
    tracker.start()
    tracker.store_init_configuration(dict(config))
    return tracker
