"""A lineage of models that a user names on the command line, as a study that holds each against the one before."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.models.hub.gguf import PACKAGE, is_gguf
from holdfast.models.named import open_directory, require_model
from holdfast.records.errors import require
from holdfast.records.extensions import allow
from holdfast.records.inputs import parse_toml
from holdfast.study.kinds import named_in
from holdfast.study.named_suite import read_suite
from holdfast.study.stages import EXTERNAL
from holdfast.study.study import Study
from holdfast.study.template import plain_name, write_tables

BASE = "base"  # what the model is called that the others were trained from
STUDY_FILE = "study.toml"  # in the run, to be read and edited
REPLY_TOKENS = 512  # of a model that is not tiny
HEAD = """\
# {words}, trained elsewhere, each held against the one before.
# Edit it, and run it with `holdfast run FILE -o NEW_RUN`.
"""
_EXAMPLE = "holdfast lineage base=DIR SFT=DIR DPO=DIR -o RUN"


def describe_lineage(
    words: Sequence[str], *, suite: str, judge: str | None, cases: int | None, name: str
) -> tuple[Study, str]:
    """The study of a lineage, and its text: ``words`` are NAME=MODEL, the base first.

    A model is a directory, a pattern of directories for the last, or a repository with @REVISION. ``suite`` is one that
    ships, or a study file whose suite, roll-outs, judges and gate are taken; ``judge`` takes the place of its judges,
    ``cases`` bounds the held-out ones. Errors: StudyError.
    """
    models = read_models(words)
    base, *later = models
    raw = read_suite(suite, judge)
    entry = _base_entry(models[base])
    if cases is not None:
        raw["suite"] = {**raw["suite"], "test_cases": cases}
    if entry["kind"] != "tiny" and "rollouts" not in raw:
        raw["rollouts"] = {"max_tokens": REPLY_TOKENS}
    raw = {
        "study": {"name": plain_name(name), "lineages": [later[: count + 1] for count in range(len(later))]},
        "model": {"bases": [base]},
        **raw,
        "models": {**raw.get("models", {}), base: entry},
        "stages": {stage: {"method": EXTERNAL, **_split_revision(models[stage])} for stage in later},
    }
    text = HEAD.format(words=" → ".join(models)) + "\n" + write_tables(raw)
    read = parse_toml(text)
    allow(named_in(read))
    return Study.model_validate(read), text


def read_models(words: Sequence[str]) -> dict[str, str]:
    """Places by name, in the order of the words. Errors: StudyError for what is no lineage."""
    models: dict[str, str] = {}
    for word in words:
        name, given, place = word.partition("=")
        require(bool(given and name and place), f"lineage: {word!r} names no model; write NAME=DIR, as in `{_EXAMPLE}`")
        fits = "," not in name and name.isprintable() and name == name.strip()
        require(fits, f"lineage: {name!r} is no name of a stage; take one without commas and spaces at its ends")
        require(name not in models, f"lineage: {name} is named twice; give each model a name of its own")
        place = os.path.expanduser(place)  # noqa: PTH111 (a pattern is no path)
        # What is here is named so that the study's file can be read from anywhere.
        here = os.path.exists(place) or not (_is_repository(place) or place.startswith(PACKAGE))  # noqa: PTH110
        place = os.path.abspath(place) if here else place  # noqa: PTH100
        for other, there in models.items():
            same = os.path.realpath(there) == os.path.realpath(place)
            require(not same, f"lineage: {other} and {name} are one model, {place}; name each model once")
        models[name] = place
    require(
        next(iter(models)) == BASE, f"lineage: the first model is the base; begin with {BASE}=DIR, as in `{_EXAMPLE}`"
    )
    require(len(models) > 1, f"lineage: {BASE} alone is no lineage; name what was trained from it, as in `{_EXAMPLE}`")
    return models


def _is_repository(place: str) -> bool:
    """Whether what is not here may be a name on the hub: OWNER/NAME, perhaps with @REVISION."""
    from holdfast.models.directories.files import REPOSITORY

    name = place.partition("@")[0]
    return name.count("/") == 1 and not name.startswith((".", "/")) and REPOSITORY.fullmatch(name) is not None


def _split_revision(place: str) -> dict[str, Any]:
    name, _, revision = place.partition("@")
    if not revision or os.path.isabs(place):  # noqa: PTH117
        return {"path": place}
    return {"path": name, "revisions": [revision]}


def _base_entry(place: str) -> Mapping[str, Any]:
    """How the base is opened."""
    told = _split_revision(place)
    if "revisions" in told:
        return {"kind": "local", "name": told["path"], "revision": told["revisions"][0]}
    if not os.path.isabs(place):  # noqa: PTH117
        return {"kind": "local", "name": place}
    if is_gguf(place):
        return {"kind": "local", "name": place}
    directory = Path(place)
    require(directory.is_dir(), f"lineage: {BASE}={place}: no such directory; give the directory of the base's weights")
    require_model(directory)
    return open_directory(directory)
