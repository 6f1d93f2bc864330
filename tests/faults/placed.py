"""Kills and write faults at the k-th operation of a command, and what became of it when the command was repeated."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.classes import Found, Kind
from faults.scenes import BY_NAME, SCENES, Scene, World, committed, listing, outcome, plain
from faults.warm import Ended, Fault, Shop
from holdfast.store import Store

KILLS = ("before", "after", "half")
ERRORS = (("enospc", False), ("enospc", True), ("eio", False), ("eio", True), ("edquot", True), ("short", False),
          ("short", True), ("edquot", False))  # fmt: skip
HEX = re.compile(r"[0-9a-f]{16,}|part-[^/]*|\.[A-Za-z0-9_]{8}$|\d{3,}")
TEMPORARY = re.compile(r"(?:^|/)\.")
NAMED = re.compile(r"/|WORK|\.(?:db|json|xml|md|toml|eval|tar)\b|(?:out|again|page|wrun): |cannot write a run here")
KINDS = {"w": "write", "s": "fsync", "r": "rename", "u": "unlink", "m": "mkdir", "t": "ftruncate"}


def find_child(run: Path, lineage: str) -> str:
    """The id of the checkpoint of a lineage."""
    with Store(run) as store:
        return next(one.id for one in store.checkpoints() if ",".join(one.lineage) == lineage)


def find_weights(run: Path, lineage: str) -> str:
    """Where the weights of a lineage lie in a run."""
    with Store(run) as store:
        return next(one.path or "" for one in store.checkpoints() if ",".join(one.lineage) == lineage)


def refer(shop: Shop, world: World, scene: Scene, work: Path) -> dict[str, Any]:
    """The command undisturbed, twice: its result, and its operations; what two results differ in is not compared."""
    both = []
    for logging in (True, False):
        world.furnish(scene.needs, work)
        ended = shop.carry_out(world.words(scene), work, logging=logging)
        both.append((ended, outcome(work, scene), listing(work)))
    (first, made, files), (second, again, others) = both
    assert first.code == second.code and first.code in (0, 1, 3), (scene.name, first.err, second.err)
    assert first.operations, f"{scene.name}: the shim counted nothing"
    loose = frozenset(key for key in {*made, *again} if made.get(key) != again.get(key))
    return {
        "code": first.code,
        "out": plain(first.out) if plain(first.out) == plain(second.out) else None,
        "outcome": made,
        "loose": loose,
        "files": sorted({*files, *others}),
        "bytes": {name: (work / name).read_bytes() for name in made if scene.run is None and (work / name).is_file()},
        "operations": first.operations,
    }


def place(count: int) -> list[tuple[str, int]]:
    """Scene and number of ``count`` faults, by the scenes' weights."""
    total = sum(scene.weight for scene in SCENES)
    return [(scene.name, n) for scene in SCENES for n in range(-int(-count * scene.weight // total))]


def choose(operations: tuple[tuple[str, str], ...], seed: int, name: str, number: int) -> tuple[int, int]:
    """Which operation, and which way of failing: kinds of file and operation take turns, and of each any is taken.

    The second number goes on by one with every case and by one more with every round through the kinds, so that each
    kind meets each way.
    """
    groups = defaultdict(list)
    for at, (kind, path) in enumerate(operations):
        if path.endswith("-shm"):
            continue  # every reader makes it anew
        groups[kind, HEX.sub("*", path)].append(at)
    order = sorted(groups)
    random.Random(f"{seed} {name}").shuffle(order)
    at = random.Random(f"{seed} {name} {number}").choice(groups[order[number % len(order)]])
    return at, number + number // len(order)


def try_fault(shop: Shop, world: World, work: Path, name: str, seed: int) -> Found:
    """One fault by its name, such as ``kill/run/3`` or ``fault/watch/0``."""
    group, scene_name, number = name.split("/")
    scene, known = BY_NAME[scene_name], world.reference[scene_name]
    at, way = choose(known["operations"], seed, f"{group} {scene_name}", int(number))
    fault = Fault(at, KILLS[way % len(KILLS)]) if group == "kill" else Fault(at, *ERRORS[way % len(ERRORS)])
    kind, path = known["operations"][at]
    where = f"{fault.how}{' lasting' * fault.lasting} at {KINDS[kind]} {at} of {path}"
    world.furnish(scene.needs, work)
    words = world.words(scene)
    ended = shop.carry_out(words, work, fault)
    if not ended.fired:
        return Found(name, Kind.MISSED, where)
    if ended.code is None:
        return Found(name, Kind.HANG, where)
    trial = _Trial(shop=shop, scene=scene, known=known, work=work, words=words, ended=ended, killed=group == "kill")
    for kind_found, why in trial.judge():
        return Found(name, kind_found, f"{where}: {why}", placeless=_placeless(ended))
    kind_found = Kind.RIGHT if group == "kill" or ended.code == known["code"] else Kind.TOLD
    return Found(name, kind_found, where, placeless=_placeless(ended))


def _placeless(ended: Ended) -> bool:
    """Whether a message names no file or directory; the run is called as the command is, so its name alone is none."""
    lines = [line for line in ended.err.splitlines() if line.startswith("holdfast: ")]
    return bool(lines) and not any(NAMED.search(line) for line in lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """A command that met a fault: how it ended, and what it is held against."""

    shop: Shop
    scene: Scene
    known: dict[str, Any]
    work: Path
    words: list[str]
    ended: Ended
    killed: bool

    def judge(self) -> Iterator[tuple[Kind, str]]:
        """What is wrong, in the order in which it came; nothing where all is as it should be."""
        known, scene = self.known, self.scene
        here = outcome(self.work, scene)
        if not self.killed:
            yield from self._judge_words(here)
        torn = sorted(_find_half(self.work, scene, known, here))
        if torn:
            yield Kind.LOST, f"half of {', '.join(torn)} stands under its name"
        before = committed(self.work, scene)
        if not scene.once or _differences(known, here):
            yield from self._repeat()
        yield from _compare_rows(before, committed(self.work, scene))
        if differences := _differences(known, outcome(self.work, scene)):
            yield Kind.LOST, f"repeated: {differences}"
        more = [one for one in listing(self.work) if one not in known["files"] and not _is_twin(one, known["files"])]
        if more:
            yield Kind.LEFTOVER, ", ".join(more[:4])

    def _judge_words(self, here: dict[str, Any]) -> Iterator[tuple[Kind, str]]:
        ended, known = self.ended, self.known
        if ended.torn:
            yield Kind.TRACEBACK, ended.err[-600:]
        elif ended.code != known["code"]:
            if not ended.told:
                yield Kind.SILENT, f"exit {ended.code} without a word: {ended.err[-300:]!r}"
        elif differences := _differences(known, here):
            yield Kind.SILENT, f"exit {ended.code}, but {differences}"
        elif known["out"] is not None and plain(ended.out) != known["out"]:
            yield Kind.SILENT, f"exit {ended.code}, other output: {_first_change(known['out'], plain(ended.out))}"

    def _repeat(self) -> Iterator[tuple[Kind, str]]:
        again, known = self.shop.carry_out(self.words, self.work), self.known
        if again.torn:
            yield Kind.TRACEBACK, f"repeated: {again.err[-600:]}"
        elif again.code != known["code"]:
            yield Kind.LOST, f"repeated: exit {again.code}: {again.err[-400:]}"
        elif self.scene.says and known["out"] is not None and plain(again.out) != known["out"]:
            yield Kind.SILENT, f"repeated: other output: {_first_change(known['out'], plain(again.out))}"


def _find_half(work: Path, scene: Scene, known: dict[str, Any], here: dict[str, Any]) -> Iterator[str]:
    """Outputs that stand under their names and are not whole: a file that only begins as it should, a part of many."""
    if scene.run is not None or not here:
        return
    if scene.once:
        yield from (name for name in known["outcome"] if name not in here)
    for name, found in here.items():
        wanted = known["bytes"].get(name)
        if wanted is None or name in known["loose"] or found == known["outcome"][name]:
            continue
        if wanted.startswith((work / name).read_bytes()):
            yield name


def _is_twin(name: str, known: list[str]) -> bool:
    """A file that has another name in every execution, as one named by a digest of what has a clock in it."""
    return HEX.sub("*", name) in {HEX.sub("*", one) for one in known} and "part-" not in name


def _differences(known: dict[str, Any], here: dict[str, Any]) -> str:
    """What is not as it should be; what stands under a temporary name beside it is a leftover and no difference."""
    wanted = known["outcome"]
    found = [key for key in {*wanted, *here} - known["loose"] if wanted.get(key) != here.get(key)]
    lacking = [key for key in known["loose"] if key in wanted and key not in here]
    return ", ".join(sorted(key for key in found + lacking if key in wanted or not TEMPORARY.search(key))[:4])


def _compare_rows(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[Kind, str]]:
    """Committed is committed: rows stay, steps are not done again."""
    for table in ("trajectories", "scores", "checkpoints", "batches", "done"):
        gone = set(before.get(table, ())) - set(after.get(table, ()))
        if gone:
            yield Kind.LOST, f"{len(gone)} committed rows of {table} are gone or changed"
        rows = after.get(table, [])
        if len(set(rows)) != len(rows):
            yield Kind.DUPLICATED, f"rows of {table} stand twice"


def _first_change(one: str, other: str) -> str:
    at = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return f"…{one[max(0, at - 60) : at + 30]!r} became {other[max(0, at - 30) : at + 30]!r}"
