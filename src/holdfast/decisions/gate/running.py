"""What a gate runs itself: two models through a study's suite, or one checkpoint through its own cases once more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.decisions.gate.books import Book, Library
from holdfast.decisions.gate.verdicts import Place
from holdfast.models.entries import TINY
from holdfast.models.hub.gguf import is_gguf
from holdfast.models.named import open_directory, require_model
from holdfast.models.tiny.chat import is_tiny
from holdfast.records import Checkpoint, content_id
from holdfast.records.errors import StudyError
from holdfast.records.section import NAME_LENGTH
from holdfast.runs.build import build
from holdfast.runs.execution import StepProgress
from holdfast.runs.readiness import look_around
from holdfast.runs.run import fork_run, note_study, run
from holdfast.runs.steps.reading import place_now
from holdfast.store import Store
from holdfast.store.database import holds_tables
from holdfast.store.places import STUDY_KEY
from holdfast.store.weights import WEIGHTS, lend
from holdfast.study.named_suite import is_cases_file, is_study_file, read_suite
from holdfast.study.noted import base_named, check_opened, choose_endpoints, read_noted, require_weights
from holdfast.study.study import Study, from_tables, load
from holdfast.study.template import plain_name

NAME_DIGITS = 12  # of the name of a run of a parent
FEWEST_DRAWS = 100  # a gate needs no resamples of the run's own analysis
REMOTE, LOCAL, VLLM = "remote/", "local/", "vllm/"
# Providers as Inspect AI names them, before a model's name. The last two are owners on the hub as well.
PROVIDERS = (
    *("anthropic", "azureai", "bedrock", "cloudflare", "fireworks", "grok", "groq", "hf-inference-providers"),
    *("llama-cpp-python", "mistral", "mockllm", "ollama", "openai-api", "openrouter", "perplexity", "sambanova"),
    *("sglang", "together", "vllm"),
)
ALSO_OWNERS = ("google", "openai")
# What of a study a gate's own run leaves out: nothing is trained, and only held-out cases are met.
LEFT_OUT = ("stages", "doses", "merges", "attacks", "shifts", "probes", "search")

Before = Callable[[Sequence[tuple[Study, Path]]], None]  # is told what will be carried out and where, and may refuse it


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """How a gate's own run is carried out; it changes no result.

    ``endpoints`` are the user's own tables ``[endpoints.NAME]``; those of a run are ``trusted`` or not taken.
    """

    workers: int | None = None
    max_calls: int | None = None
    max_cost: float | None = None
    listener: Callable[[StepProgress], None] = lambda _: None
    endpoints: Mapping[str, Any] = field(default_factory=dict)
    trusted: bool = False


def read_study(suite: str, *, judge: str | None = None, scale: str | None = None, changes: Sequence[str] = ()) -> Study:
    """The study of a suite's name, of a study file, or of a file of cases.

    ``judge`` takes the place of the judges of all but a study file; ``scale`` and ``changes`` are as of ``load``.
    Errors: StudyError.
    """
    if is_study_file(suite):
        return load(suite, scale=scale, changes=changes)
    if scale is not None:
        raise StudyError(f"--scale goes with a study file, and {suite!r} is none; leave it out")
    name = Path(suite).stem if is_cases_file(suite) else suite
    return from_tables({"study": {"name": plain_name(name)}, **read_suite(suite, judge)}, changes=changes)


def require_judge(judges: Collection[str], wanted: str | None) -> None:
    """Refuse a judge that will not score new episodes before any is made. Errors: StudyError."""
    if judges and wanted is not None and wanted.partition("#")[0] not in judges:
        raise StudyError(
            f"--judge {wanted!r}: new episodes are scored by the judges of their study, which are"
            f" {', '.join(judges)}; name one of these"
        )


def roll_out_models(
    library: Library,
    study: Study,
    *,
    parent: str,
    child: str,
    output: Path,
    means: Means,
    again: int | None,
    most_cases: int | None = None,
    base_url: str | None = None,
    parents: Path | None = None,
    before: Before = lambda _: None,
) -> tuple[Place, Place]:
    """Two models through a study's suite and judges, in the run at ``output``.

    A model is a name in the study's ``[models]``, ``tiny``, a directory of weights, a repository on the hub, or a
    provider's model, which is reached at ``base_url`` where that is given. With ``again`` the child is rolled out in a
    run of its own with another seed, so that it may be the parent itself. No more than ``most_cases`` are met, or those
    that the run holds. In ``parents`` the parent's episodes are kept, in a run of their own with which
    gates of other children begin. ``before`` is told what will be carried out and where, and may refuse it. Errors:
    StudyError, StepError.
    """
    if parent == child and again is None:
        raise StudyError(f"--parent and --child are both {child!r}; add --again to roll the same model out twice")
    study = _bound_cases(study, output, most_cases)
    names = name_models(study, [parent, child])
    # Read before the first is carried out: nothing is spent where it is wrong.
    one = evaluate(study, dict(zip(names[:1] if again else names, (parent, child), strict=False)), base_url=base_url)
    anew = None if again is None else evaluate(study, {names[1]: child}, seed=again, base_url=base_url)
    place = output if again is None else again_place(output, names[1], again)
    planned = [(one, output), *([] if anew is None else [(anew, place)])]
    kept = None
    if parents is not None:
        sides = [_alone(one, name) for name in names]
        kept = parents / identify(sides[0], names[0])
        planned = list(zip(sides, (kept, output), strict=True))
    for each, _ in planned:
        if problems := look_around(each)[0]:
            raise StudyError(problems[0])
    before(planned)
    if kept is not None:
        _book_of(library, planned[0][0], kept, means)
        _begin_with(kept, one, output)
    first = _book_of(library, one, output, means)
    side = Place(first, _base_of(first, names[0]), names[0])
    if again is None or anew is None:
        return side, Place(first, _base_of(first, names[1]), names[1])
    second = _book_of(library, anew, place, means)
    told = f"{names[1]} (rolled out anew, seed {again})"
    return side, Place(second, _base_of(second, names[1]), told)


def _alone(study: Study, name: str) -> Study:
    """The same of one of its models, without what is of another or of the comparison alone."""
    raw = study.model_dump(mode="json", exclude={"gate"})
    raw["study"].pop("compare", None)
    raw["model"]["bases"] = [name]
    speaking = _speaking(raw, [name])
    raw["models"] = {key: entry for key, entry in raw["models"].items() if key in speaking}
    raw["endpoints"] = {key: table for key, table in raw["endpoints"].items() if key in speaking}
    return Study.model_validate(raw)


def identify(study: Study, name: str) -> str:
    """What tells the run of a model that lies here from that of any other: its study, and the digest of its weights.

    Errors: StudyError where the model is not found.
    """
    entry = study.entry(name)
    opened = None
    if entry.name and entry.kind != "remote":
        # Not before: a gate of remote models alone needs no packages for weights.
        from holdfast.models.directories.stacks import digest_opened
        from holdfast.models.hub.hub import find_model

        opened = digest_opened(find_model(entry.name, entry.revision))
    return content_id("parent", study.settings(), opened)[:NAME_DIGITS]


def _begin_with(kept: Path, study: Study, output: Path) -> None:
    """Make the run of a study at ``output`` with what a run holds of it, where it is not there. Errors: StudyError."""
    if holds_tables(output):
        return
    if output.is_dir() and not any(output.iterdir()):
        output.rmdir()
    elif output.exists():
        raise StudyError(f"{output}: is there and holds no run, so that none can begin there; choose another -o")
    fork_run(kept, output, build(study))


def name_models(study: Study, places: Sequence[str]) -> list[str]:
    """What a run calls models that a user names by where they lie: the end of a path, as much as tells them apart.

    A name of the study, of the hub or of a provider stays as it is.
    """

    def shorten(place: str, parts: int) -> str:
        path = Path(place).expanduser()
        if place in (TINY, *study.models) or not path.exists():
            return place
        return "/".join(path.absolute().parts[-parts:])

    longest = max(len(Path(place).expanduser().absolute().parts) for place in places)
    for parts in range(1, longest + 1):
        names = [shorten(place, parts) for place in places]
        taken = any(name in (TINY, *study.models) for name, place in zip(names, places, strict=True) if name != place)
        if len(set(names)) == len(set(places)) and not taken:
            return names
    return list(places)


def _bound_cases(study: Study, output: Path, most_cases: int | None) -> Study:
    """The study with so many held-out cases at most; of a run that holds more, all of those stay.

    Their episodes are there: another number of cases is compared without making any anew.
    """
    if most_cases is None:
        return study
    held = 0
    if holds_tables(output):
        with Store(output) as store:
            held = int((read_noted(store).get("suite") or {}).get("test_cases", 0))
    count = min(study.suite.test_cases, max(most_cases, held))
    return study.model_copy(update={"suite": study.suite.model_copy(update={"test_cases": count})})


def roll_out_again(
    library: Library,
    book: Book,
    checkpoint: Checkpoint,
    *,
    again: int,
    output: Path | None,
    means: Means,
    before: Before = lambda _: None,
) -> Place:
    """The same weights through the same held-out cases with another seed, in a run of their own.

    Errors: StudyError where the run does not say how its episodes were made, or no longer has the weights.
    """
    if not book.study:
        raise StudyError(
            f"{book.place}: was imported, and does not say how its episodes were made; --again needs a run of a study"
        )
    name = checkpoint.name
    raw = {key: value for key, value in book.study.items() if key not in LEFT_OUT}
    raw["models"] = {**raw.get("models", {}), name: _entry_of(book, checkpoint)}
    seeds = raw.get("axes", {}).get("split_seed")
    raw["axes"] = {"split_seed": seeds} if seeds and checkpoint.split_seed is None else {}
    if checkpoint.split_seed is not None:
        raw["suite"] = {**raw["suite"], "split_seed": checkpoint.split_seed}
    with Store(book.path) as store:
        base = _base_entry(book, checkpoint) or name
        speaking = _speaking(raw, [base])
        found = choose_endpoints(speaking, store, means.endpoints, trusted=means.trusted)
        check_opened({one: raw["models"][one] for one in _speaking(raw, []) if one in raw["models"]}, store)
    raw["endpoints"] = {**found, **({name: found[base]} if base in found else {})}
    study = _bare(raw, [name], seed=again)
    place = output or again_place(book.path, checkpoint.id[:8], again)
    if place.absolute() == book.path.absolute():
        raise StudyError(f"-o {place}: is the run itself; the new episodes need a run of their own")
    before([(study, place)])
    _lend(book, checkpoint, study, place)
    made = _book_of(library, study, place, means)
    told = f"{name} (rolled out anew, seed {again})"
    return Place(made, _base_of(made, name), told, trained=(book, checkpoint))


def _lend(book: Book, checkpoint: Checkpoint, study: Study, output: Path) -> None:
    """Put the run's own held-out cases and the weights into the new run: the suite of today may draw other cases.

    A run that was made and killed before it got them is empty, and gets them now.
    """
    if holds_tables(output):
        with Store(output) as made:
            if made.meta(STUDY_KEY) is not None or made.counts()["cases"]:
                return
    with Store(book.path) as store:
        splits = {
            seed: parts.get("test", ())
            for seed, parts in store.splits().items()
            if checkpoint.split_seed in (None, seed)
        }
        cases = {name: store.case(name) for names in splits.values() for name in names}
        directories = [] if checkpoint.path is None else stacked(store.weights(checkpoint))
    with Store.open_or_create(output) as made, made.transaction():
        for directory in directories:
            lend(directory, output / WEIGHTS)
        made.add_cases(cases.values())
        for seed, names in splits.items():
            made.add_split(seed, {"test": names})
        note_study(study, made)


def stacked(directory: Path) -> list[Path]:
    """A checkpoint's directory, and that of the run's own base that it stands on."""
    if is_tiny(directory):
        return [directory]
    from holdfast.models.directories.stacks import base_of

    directory = directory.resolve()
    base = base_of(directory)
    return list(dict.fromkeys((directory, base))) if base.parent == directory.parent else [directory]


def again_place(run_path: Path, name: str, again: int) -> Path:
    """Where the new episodes of a checkpoint go if nobody says: beside its run."""
    label = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    return run_path.with_name(f"{run_path.name}-again-{label[-NAME_LENGTH:]}-{again}")


def _book_of(library: Library, study: Study, output: Path, means: Means) -> Book:
    run(
        study,
        output,
        workers=means.workers,
        listener=means.listener,
        max_calls=means.max_calls,
        max_cost=means.max_cost,
    )
    library.forget(output)
    return library.open(output)


def _base_of(book: Book, name: str) -> Checkpoint:
    """The base that the study calls ``name``. Errors: StudyError."""
    found = base_named(book.checkpoints, name)
    if found is None:
        raise StudyError(f"{book.place}: no model {name!r} in this run; run it in another directory with -o")
    return found


def evaluate(study: Study, models: Mapping[str, str], *, seed: int = 0, base_url: str | None = None) -> Study:
    """A study that only evaluates some models (name → place), by the suite, rollouts, judges and gate of another.

    Providers' models among them are reached at ``base_url``, where that is given.
    """
    raw = study.model_dump(mode="json", exclude=set(LEFT_OUT))
    # What the study does not say is what fits these models.
    raw["rollouts"] = study.rollouts.model_dump(mode="json", exclude_unset=True)
    raw["axes"] = {}
    served = base_url is not None
    found = {name: entry for name, place in models.items() if (entry := _find_entry(study, place, served=served))}
    raw["models"] = {**raw["models"], **found}
    if base_url is not None:
        remote = [name for name in models if raw["models"].get(name, {}).get("kind") == "remote"]
        if not remote:
            raise StudyError(
                f"--base-url {base_url}: neither model is a provider's; name it as its server does, as in"
                " openai-api/SERVICE/NAME or vllm/NAME"
            )
        # An address on the user's own command line is trusted, as one in a study of theirs is not.
        told = {"base_url": base_url, "allow_private": True}
        raw["endpoints"] |= {name: {**raw["endpoints"].get(name, {}), **told} for name in remote}
    return _bare(raw, list(models), seed=seed)


def _bare(raw: dict[str, Any], models: list[str], *, seed: int) -> Study:
    """A study without training whose bases are ``models``."""
    raw["models"] = {
        name: {key: value for key, value in entry.items() if key != "start"} for name, entry in raw["models"].items()
    }
    named = f"{raw['study']['name']}-gate"[-NAME_LENGTH:].lstrip(".")
    compared = {"compare": models} if len(models) == 2 else {}
    raw["study"] = {"name": named, "draws": FEWEST_DRAWS, **compared}
    raw["model"] = {**raw["model"], "bases": models, "base_seeds": raw["model"]["base_seeds"][:1]}
    # Nothing is trained: pairs that were brought from elsewhere need not be there any more.
    raw["pairs"] = {key: value for key, value in raw["pairs"].items() if key not in ("source", "digest")}
    raw["rollouts"] = {**raw["rollouts"], "seed": raw["rollouts"].get("seed", 0) + seed}
    used = set(_speaking(raw, models))
    raw["endpoints"] = {
        key: value for key, value in raw.get("endpoints", {}).items() if key in used | set(raw["models"])
    }
    return Study.model_validate(raw)


def _speaking(raw: Mapping[str, Any], models: Sequence[str]) -> list[str]:
    """The models that speak in a study without training: its bases, who plays the tools, and who judges."""
    named = [*models, raw["suite"]["world"].get("model"), *(one.get("model") for one in raw["judges"].values())]
    return [name for name in dict.fromkeys(named) if name is not None]


def _find_entry(study: Study, name: str, *, served: bool = False) -> Mapping[str, Any] | None:
    """How a model is opened that the study does not name; None where it does.

    ``served`` says that the user gave the address of a server.
    """
    if name in study.models and study.models[name].start:
        raise StudyError(
            f"{name!r} is a base that its study teaches first (models.{name}.start), and a gate trains nothing; give"
            " RUN:base of a run of the study, or the directory of what is meant"
        )
    if name in study.models or name == TINY:
        return None
    return open_named(name, served=served, known=(TINY, *study.models))


def open_named(name: str, *, served: bool = False, known: Sequence[str] = ()) -> Mapping[str, Any]:
    """How a model is opened that a user names on the command line, beside the names that are ``known`` there.

    ``served`` says that the user gave the address of a server. Errors: StudyError.
    """
    place = Path(name).expanduser()
    if is_gguf(name):
        return {"kind": "local", "name": name}
    if name and place.is_dir():
        require_model(place)
        return open_directory(place)
    if name.startswith(REMOTE):
        return {"kind": "remote", "name": name.removeprefix(REMOTE)}
    if name.startswith(VLLM) and not served:
        return {"kind": "vllm", "name": name.removeprefix(VLLM)}
    if name.startswith(LOCAL):
        return {"kind": "local", "name": name.removeprefix(LOCAL)}
    owner = name.partition("/")[0]
    if owner in ALSO_OWNERS and not served:
        raise StudyError(
            f"{name!r} may be a model of the hub or of the provider {owner}; write {LOCAL}{name} or {REMOTE}{name}"
        )
    if owner in (*PROVIDERS, *ALSO_OWNERS):
        return {"kind": "remote", "name": name}
    if "/" in name:
        return {"kind": "local", "name": name}
    found = f"no model of the study ({', '.join(known)}) and no directory" if known else "no directory"
    raise StudyError(
        f"{name!r} is {found}; give {'one of these' if known else 'one'}, ORG/NAME of the hub, or remote/PROVIDER/NAME"
    )


def _base_entry(book: Book, checkpoint: Checkpoint) -> str | None:
    """What the run's study calls the base of a checkpoint in ``[models]``, if it does; a seed may stand behind it."""
    names = (checkpoint.base, checkpoint.base.rpartition("-")[0])
    return next((name for name in names if name in book.study.get("models", {})), None)


def _entry_of(book: Book, checkpoint: Checkpoint) -> Mapping[str, Any]:
    """How a checkpoint of a run is opened again. Errors: StudyError where its weights are gone.

    Weights of the run go by their digest, as in the run: wherever it lies, its episodes are the same.
    """
    base = _base_entry(book, checkpoint)
    entry: Mapping[str, Any] = book.study["models"][base] if base is not None else {}
    if checkpoint.path is not None:
        with Store(book.path) as store:
            return open_directory(store.weights(checkpoint), entry, checkpoint.path)
    if checkpoint.model is None:
        raise StudyError(f"{checkpoint.name}: the run does not say where its weights are; --again cannot open them")
    if entry.get("kind") == "remote":
        return dict(entry)
    with Store(book.path) as store:
        name, revision = place_now(store, checkpoint)
    require_weights(f"{checkpoint.name} of {book.place}", name, revision, [checkpoint.digest])
    if checkpoint.stages and revision is None:  # it was trained elsewhere, and lies there
        return open_directory(Path(name), entry)
    return {"kind": "local", **entry, "name": name, "revision": revision}
