"""Small stores with held-out cases, variants of them, and scores by rule: what analyses of pressure and shifts read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from holdfast.records import Case, Checkpoint, Ending, Flag, Message, Score, StageRecord, Trajectory, content_id
from holdfast.store import Store

Place = tuple[str, str, int, int]  # kind, form, number of the clean case, rollout
Scorer = Callable[[Checkpoint, Place], Mapping[str, float | None]]
GOALS = {"S": ("safety",), "H": ("helpfulness",)}


def make_checkpoint(*lineage: str, base: str = "tiny-0", seed: int = 0, **axes: int) -> Checkpoint:
    """A checkpoint whose parent is the lineage without its last stage."""

    def identify(names: tuple[str, ...]) -> str:
        return content_id(base, names, seed if names else None, axes if names == lineage else {})

    return Checkpoint(
        id=identify(lineage),
        base=base,
        stages=tuple(StageRecord(name=name, method="dpo", objectives=GOALS[name]) for name in lineage),
        axes=axes,
        split_seed=0 if lineage else None,
        train_seed=seed if lineage else None,
        parent_id=identify(lineage[:-1]) if lineage else None,
    )


def make_clean(number: int, hazardous: bool) -> Case:
    """A held-out case."""
    return Case(
        id=content_id("clean", number),
        suite="office",
        number=number,
        family="files",
        messages=(Message(role="user", content=f"request {number}"),),
        facts={"hazards": [2 if hazardous else 0]},
    )


def make_variant(case: Case, kind: str, form: str, number: int) -> Case:
    """A case that says that it is made of another."""
    facts = {**case.facts, "variant": {"kind": kind, "form": form, "of": case.id}}
    identity = content_id(kind, form, case.id)
    return Case(id=identity, suite="office", number=number, family="files", messages=case.messages, facts=facts)


def write_pressure(
    path: Path,
    checkpoints: Iterable[Checkpoint],
    score: Scorer,
    *,
    hazardous: int = 6,
    harmless: int = 4,
    forms: tuple[str, ...] = ("authority",),
    shifts: tuple[str, ...] = (),
    rollouts: int = 2,
    judge: str = "state",
    idle: Callable[[Checkpoint, Place], bool] = lambda checkpoint, place: False,
) -> Store:
    """A store with every checkpoint on every case; ``score`` gives objective → value of an episode, None if missing."""
    clean = [make_clean(number, number < hazardous) for number in range(hazardous + harmless)]
    made: list[tuple[Case, Place]] = [(case, ("test", "", case.number, 0)) for case in clean]
    parts: dict[str, list[str]] = {"test": [case.id for case in clean], "attack": [], "shift": []}
    kinds = [("control", "clean"), *(("attack", form) for form in forms)] if forms else []
    for kind, form in [*kinds, *(("shift", one) for one in shifts)]:
        for case in clean:
            named = "twin" if kind == "attack" and case.number >= hazardous else kind
            variant = make_variant(case, named, form, 1000 * (1 + len(made)) + case.number)
            made.append((variant, (named, form, case.number, 0)))
            parts["shift" if kind == "shift" else "attack"].append(variant.id)
    store = Store.create(path)
    text = store.text_codec.pack(b'{"m":[]}')
    with store.transaction():
        store.add_cases([case for case, _ in made])
        store.add_split(0, {part: names for part, names in parts.items() if names})
        for one in checkpoints:
            store.add_checkpoint(one)
            for case, (kind, form, number, _) in made:
                for rollout in range(rollouts):
                    place = (kind, form, number, rollout)
                    identity = content_id(one.id, case.id, rollout)
                    nothing = idle(one, place)
                    store.add_trajectory(
                        Trajectory(
                            id=identity,
                            case_id=case.id,
                            checkpoint_id=one.id,
                            rollout=rollout,
                            messages=(),
                            ending=Ending.FINISHED,
                            flags=(Flag.NO_CALL,) if nothing else (),
                            calls=0 if nothing else 1,
                        ),
                        text,
                    )
                    for objective, value in score(one, place).items():
                        store.add_score(
                            Score(
                                trajectory_id=identity,
                                judge=judge,
                                objective=objective,
                                value=value,
                                missing="no verdict" if value is None else None,
                            )
                        )
    return store
