"""A baseline from an artifact: the newest that a run on the default branch of the repository itself has kept."""

from __future__ import annotations

import hashlib
import shutil
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from holdfast.cli.github.api import Api, ApiError
from holdfast.records.errors import StudyError, refuse, require
from holdfast.records.inputs import check_expansion

_MOST_FILES = 100_000
_REMEDY = "keep one with a run of the default branch (bless), or give a baseline's path"


def fetch_baseline(api: Api, name: str, folder: Path) -> Path:
    """The directory of the newest baseline that was kept under ``name``, unpacked below the new ``folder``.

    An artifact counts only if a run on the default branch of this repository made it: a pull request can keep one of
    the same name, and a fork has a branch of the same name. Errors: StudyError where there is none, ApiError.
    """
    repository = api.ask("GET", "")
    try:
        branch, identity = str(repository["default_branch"]), int(repository["id"])
    except (KeyError, TypeError, ValueError) as error:
        raise ApiError("the API does not say which branch is the default one") from error
    rows = api.pages(f"/actions/artifacts?name={quote(name, safe='')}", "artifacts")
    fitting = [one for one in rows if one.get("name") == name and _is_trusted(one, branch, identity)]
    fitting = [one for one in fitting if one.get("expired") is False]
    require(bool(fitting), f"baseline-from {name}: no run on {branch} has kept such an artifact; {_REMEDY}")
    newest = max(fitting, key=lambda one: (str(one.get("created_at")), int(one["id"])))
    folder.mkdir(parents=True)
    packed = folder / "artifact.zip"
    api.download(f"/actions/artifacts/{int(newest['id'])}/zip", packed)
    _check_digest(packed, newest.get("digest"), name)
    unpack(packed, folder / "baseline", f"artifact {name}")
    packed.unlink()
    return folder / "baseline"


def _is_trusted(artifact: Mapping[str, Any], branch: str, identity: int) -> bool:
    run = artifact.get("workflow_run")
    return (
        isinstance(artifact.get("id"), int)
        and isinstance(run, dict)
        and run.get("head_branch") == branch
        and run.get("head_repository_id") == run.get("repository_id") == identity
    )


def _check_digest(packed: Path, told: object, name: str) -> None:
    """Hold an artifact against the digest that the API tells, where it tells one. Errors: StudyError."""
    if isinstance(told, str) and told.startswith("sha256:"):
        with packed.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != told.removeprefix("sha256:"):
            raise StudyError(f"artifact {name}: its bytes are not those that were kept; run the job again")


def unpack(packed: Path, target: Path, subject: str) -> None:
    """Lay an archive's files down in the new directory ``target``: files alone, none outside it. Errors: StudyError."""
    try:
        with zipfile.ZipFile(packed) as archive:
            entries = archive.infolist()
            if len(entries) > _MOST_FILES:
                refuse(subject, f"holds more than {_MOST_FILES:,} files", _REMEDY)
            check_expansion(subject, sum(one.file_size for one in entries), packed.stat().st_size, _REMEDY)
            target.mkdir()
            for one in entries:
                _unpack_entry(archive, one, target, subject)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        raise StudyError(f"{subject}: is no archive that can be read ({error}); {_REMEDY}") from error


def _unpack_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, subject: str) -> None:
    name = PurePosixPath(entry.filename.replace("\\", "/"))
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if name.is_absolute() or ".." in name.parts or ":" in entry.filename or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        refuse(subject, f"holds {entry.filename!r:.80}, which is no file inside it", _REMEDY)
    place = target / name
    if entry.is_dir():
        place.mkdir(parents=True, exist_ok=True)
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, place.open("xb") as file:
        shutil.copyfileobj(source, file)
