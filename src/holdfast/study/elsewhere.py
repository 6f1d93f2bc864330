"""Checkpoints that training elsewhere left behind, as a study finds them: where they lie, their steps and digests.

Nothing is downloaded or loaded: whether a directory can be opened is told by who opens it.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.records.errors import HoldfastError, StudyError, require, require_known
from holdfast.records.section import MOST
from holdfast.records.words import count_noun
from holdfast.study.sections import OBJECTIVES
from holdfast.study.stages import ExternalSection
from holdfast.study.tables import Tables

_PATTERN = re.compile(r"[*?\[]")
_STATE = "trainer_state.json"  # of transformers' trainers, beside the weights
_COUNT = re.compile(r"\d+")
_SAYS_STEPS = re.compile(r"(?:checkpoint|step|iter|iteration)s?[-_]?(\d+)$", re.IGNORECASE)
_FILLED = ("places", "digests")


def read_external(name: str, stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's table with the places, steps and digests of its checkpoints, in the order of steps.

    What a run noted is left as it is. Errors: StudyError naming the place, the finding and the remedy.
    """
    path, revisions = stage.get("path"), stage.get("revisions") or ()
    if all(stage.get(key) for key in _FILLED) or not isinstance(path, str) or not path:
        return dict(stage)
    given = stage.get("steps")
    counts = given if isinstance(given, list | tuple) else [] if given is None else [given]
    if not _are_texts(revisions) or not set(stage) <= set(ExternalSection.model_fields):
        return dict(stage)  # its table says what is wrong
    whole = all(type(one) is int and one > 0 for one in counts)
    require(whole, f"stages.{name}.steps is {given!r:.80}; give whole numbers from 1 on, one for each checkpoint")
    place = f"stages.{name}.path"
    found = _find(place, path, revisions)
    labels = [str(one) for one in revisions] or [str(one) for one in found]
    steps = _count_steps(f"stages.{name}", found, labels, counts)
    if steps is not None:
        ordered = sorted(zip(steps, found, strict=True))
        steps, found = [count for count, _ in ordered], [one for _, one in ordered]
    digests = [_digest(place, one) for one in found]
    held = stage.get("digests")
    same = not held or list(held) == digests
    require(
        same, f"{place}: {path} holds another model than stages.{name}.digests says; put it back, or leave them out"
    )
    return {**stage, "steps": steps, "places": [str(one) for one in found], "digests": digests}


def _are_texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(one, str) for one in values)


def _find(place: str, path: str, revisions: Sequence[str]) -> list[Path]:
    """The directories of a path, a pattern or a repository, absolute, by name."""
    from holdfast.models.directories.files import ADAPTER_CONFIG, CONFIG, find

    here = os.path.expanduser(path)  # noqa: PTH111 (a pattern is no path)
    if os.path.isdir(here):  # noqa: PTH112 (no error for names that no path can have)
        require(not revisions, f"{place}: {path} is a directory, which has no revisions; leave 'revisions' out")
        found = [Path(here)]
    elif _PATTERN.search(path):
        require(not revisions, f"{place}: {path} is a pattern, which has no revisions; leave 'revisions' out")
        found = sorted(Path(one) for one in glob.glob(here) if os.path.isdir(one))  # noqa: PTH112, PTH207
        require(bool(found), f"{place}: {path} matches no directory here; check the path")
    else:
        require(len(set(revisions)) == len(revisions), f"{place}: a revision of {path} is named twice; give each once")
        try:
            found = [find(path, revision, download=False) for revision in revisions or (None,)]
        except HoldfastError as error:
            raise StudyError(f"{place}: {error}") from error
    for one in found:
        if not any((one / file).is_file() for file in (CONFIG, ADAPTER_CONFIG)):
            inside = sorted(child.parent.name for child in one.glob(f"*/*{CONFIG}"))
            told = f"one of those in it ({path.rstrip('/')}/{inside[0]})" if inside else "the directory of a model"
            raise StudyError(f"{place}: {one} holds no model (no {CONFIG} and no {ADAPTER_CONFIG}); name {told}")
    return [Path(os.path.abspath(one)) for one in found]  # noqa: PTH100 (links stay as they are named)


def _digest(place: str, directory: Path) -> str:
    from holdfast.models.directories.stacks import digest_opened
    from holdfast.models.hub.hub import check_files

    try:
        check_files(directory, download=False)  # of what has none to take a digest of, this says why
        return digest_opened(directory)
    except (HoldfastError, OSError) as error:
        raise StudyError(f"{place}: {error}") from error


def _count_steps(place: str, found: Sequence[Path], labels: Sequence[str], given: Sequence[int]) -> list[int] | None:
    """The steps of every directory: those that are given, noted beside it or in its name; None for one without any."""
    require(
        len(given) in (0, len(found)),
        f"{place}.steps has {count_noun(len(given), 'numbers')} for {count_noun(len(found), 'checkpoints')}; give one"
        " for each, in the order of their names",
    )
    told = list(given)
    if not told:
        read = zip(map(_global_step, found), _numbers(labels), strict=True)
        known = [number if state is None else state for state, number in read]
        if known == [None]:
            return None
        lacking = next((label for number, label in zip(known, labels, strict=True) if number is None), None)
        require(
            lacking is None,
            f"{place}.path: how many steps {lacking} has is told by no number in its name and no {_STATE} in it; write"
            f" steps = [...] for the {len(found)} checkpoints, in the order of their names",
        )
        told = [number for number in known if number is not None]
    for number, label in zip(told, labels, strict=True):
        require(number <= MOST, f"{place}.path: {label} has made {number} steps, more than there are; give steps")
        require(number != 0, f"{place}.path: {label} has made no step: it is what the stage began from; leave it out")
        if told.count(number) > 1:
            both = " and ".join(one for one, other in zip(labels, told, strict=True) if other == number)
            raise StudyError(f"{place}.path: {both} have made {number} steps alike; name one of them, or give steps")
    return told


def _global_step(directory: Path) -> int | None:
    """What transformers' trainer noted beside the weights."""
    from holdfast.models.directories.files import read_object

    try:
        step = read_object(directory / _STATE, "").get("global_step")
    except StudyError:
        return None
    return step if type(step) is int and step >= 0 else None


def _numbers(labels: Sequence[str]) -> list[int | None]:
    """The number of steps in each name: of several the last by which they differ, of one what is called a step."""
    if len(labels) == 1:
        said = _SAYS_STEPS.search(labels[0].rstrip("/"))
        return [int(said[1]) if said else None]
    parts = [label.split("/") for label in labels]
    if len({len(one) for one in parts}) > 1:
        parts = [one[-1:] for one in parts]
    apart = [index for index in range(len(parts[0])) if len({one[index] for one in parts}) > 1]
    found = [_COUNT.findall("/".join(one[index] for index in apart)) for one in parts]
    return [int(one[-1]) if one else None for one in found]


# --- what must fit together ----------------------------------------------------------------------------------------


def check_external(study: Tables) -> None:
    """Every checkpoint that was trained elsewhere stands on one base and after one other. Errors: StudyError."""
    external = {name: one for name, one in study.stages.items() if isinstance(one, ExternalSection)}
    for name, stage in external.items():
        whole = len(stage.places) == len(stage.digests) == len(stage.counted) > 0
        require(
            whole, f"stages.{name} has places, steps and digests of different lengths; leave them out, and path alone"
        )
        for objective in stage.objectives:
            require_known(objective, OBJECTIVES, f"stages.{name}.objective is", "the objectives that judges score")
        _check_standing(study, name, stage)
    held: dict[str, tuple[str, str]] = {}
    for name, stage in external.items():
        for there, digest in zip(stage.places, stage.digests, strict=True):
            if digest in held:
                other, before = held[digest]
                raise StudyError(
                    f"stages.{name}.path: a model that stages.{other} has already: {there} is {before}; name each model"
                    " once"
                )
            held[digest] = (name, there)
    used = {name for lineage in study.study.lineages for name in lineage} & set(external)
    if not used:
        return
    first = min(used)
    for axis in study.axes:
        require(
            axis == "split_seed",
            f"axes.{axis}: stages.{first} was trained elsewhere, once, and is the same at every value; remove the axis",
        )
    merged = [name for name, one in study.merges.items() if used & {stage for lineage in one.of for stage in lineage}]
    require(
        not merged or _is_single(study),
        f"merges.{(*merged, '')[0]} is of a stage that was trained elsewhere, once; give one value of study.train_seeds"
        " and of axes.split_seed",
    )


def _is_single(study: Tables) -> bool:
    """Whether every training of the study is carried out once."""
    return len(study.study.train_seeds) == 1 and all(len(values) == 1 for values in study.axes.values())


def _check_standing(study: Tables, name: str, stage: ExternalSection) -> None:
    """From which checkpoint a stage was trained, and which goes on from it, is one in all lineages and on all bases."""
    place = f"stages.{name}"
    lineages = [lineage for lineage in study.study.lineages if name in lineage]
    before = {lineage[: lineage.index(name)] for lineage in lineages}
    if len(before) > 1:
        both = " and after ".join(sorted(",".join(one) or "the base" for one in before))
        raise StudyError(
            f"{place} stands after {both}, and its weights were trained from one of them; give each lineage a stage of"
            " its own, with its own path"
        )
    for lineage in lineages:
        require(
            lineage.count(name) == 1, f"study.lineages has {name} twice in {','.join(lineage)}; name each model once"
        )
        after = lineage[lineage.index(name) + 1 :]
        require(
            not after or len(stage.digests) == 1,
            f"{place}.path holds {len(stage.digests)} checkpoints, and from which of them {(*after, '')[0]} goes on is"
            f" not said; name that one alone, and give the others a stage and a lineage of their own",
        )
        trained = [one for one in lineage[: lineage.index(name)] if not isinstance(study.stages[one], ExternalSection)]
        require(
            not trained or _is_single(study),
            f"{place} was trained from one checkpoint of {','.join(trained)}, which is trained here several times;"
            " give one value of study.train_seeds and of axes.split_seed",
        )
    bases = [base for base in study.model.bases if any(name in lineage for lineage in study.lineages_of(base))]
    made = [base for base in bases if study.entry(base).kind in ("tiny", "random") and not study.entry(base).name]
    require(
        len(bases) < 2 and not (made and len(study.model.base_seeds) > 1),
        f"{place} was trained from one base, and its lineages are on {' and '.join(bases)}"
        f"{' of several base_seeds' if made else ''}; give one base, or list in study.only what each is trained by",
    )
