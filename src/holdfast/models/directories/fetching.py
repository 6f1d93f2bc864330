"""A model by its name: a directory, or a repository on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from holdfast.records.errors import MissingExtra, StudyError

REPOSITORY = re.compile(r"[\w.\-]+(?:/[\w.\-]+)?")  # of a hub


# All that is ever asked of a hub; what lies in sub-folders is not part of the model.
ASKED_FOR = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
_NOT_ASKED_FOR = ("*/*",)


def find(name: str, revision: str | None = None, *, download: bool = True) -> Path:
    """The directory of a model as in ``resolve``, not yet checked. Errors: StudyError."""
    place = Path(name).expanduser()
    if os.path.isdir(place):  # noqa: PTH112 (no error for names that no path can have)
        if revision is not None:
            raise StudyError(f"model {name}: a directory has no revision; leave 'revision' out")
        return place
    if not REPOSITORY.fullmatch(name) or name.startswith("."):
        raise StudyError(f"model {name}: no such directory, and no name of a repository; check the path")
    return _fetch(name, revision, download)


def _fetch(name: str, revision: str | None, download: bool) -> Path:
    try:
        from huggingface_hub import constants, snapshot_download
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise MissingExtra("a model from the hub", "train") from error

    shown = f"model {name}" + (f" in revision {revision}" if revision else "")
    try:
        found = snapshot_download(
            name,
            revision=revision,
            allow_patterns=list(ASKED_FOR),
            ignore_patterns=list(_NOT_ASKED_FOR),
            local_files_only=not download,
        )
    except GatedRepoError as error:
        raise StudyError(f"{shown}: the hub wants you to accept its terms first; do so and set HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise StudyError(f"{shown}: the hub has no such revision; check 'revision'") from error
    except RepositoryNotFoundError as error:
        raise StudyError(f"{shown}: no such directory, and no such repository on the hub; check the name") from error
    except (HFValidationError, ValueError) as error:
        raise StudyError(f"{shown}: no such directory, and no name of a repository; check the name") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
        why = why if download else "nothing is downloaded for a check"
        raise StudyError(
            f"{shown}: no such directory, it is not in the hub's cache, and {why}; download it or name a directory"
        ) from error
    return Path(found)
