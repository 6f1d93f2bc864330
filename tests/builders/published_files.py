"""What tests of published archives share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders.published_samples import (
    sample,
    write_archive,
)
from holdfast.exchange.published import import_into
from holdfast.records.errors import StudyError
from holdfast.store import Store


def write(folder: Path, files: Any, name: str = "set.tar.zst") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    return write_archive(folder / name, files)


def refusal(folder: Path, files: Any, name: str = "set.tar.zst") -> str:
    """The message of a refused import, with proof that it left nothing: neither a new run nor a changed one."""
    source = write(folder, files, name)
    with pytest.raises(StudyError) as caught:
        import_into(source, folder / "deep" / "run")
    assert not (folder / "deep").exists()
    import_into(write(folder, sample(), "good.tar"), folder / "old")
    with Store(folder / "old") as store:
        before = (store.counts(), store.trajectory_ids())
    with pytest.raises(StudyError):
        import_into(source, folder / "old")
    with Store(folder / "old") as store:
        assert (store.counts(), store.trajectory_ids()) == before
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in message
    assert message.count("; ") >= 1, "place and finding, then the remedy"
    return message
