"""One bit of a file flipped, and what its readers make of it: the same, a word, or another number without one."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.classes import Found, Kind
from faults.scenes import BY_NAME, CHILD, STUDY, World, listing, outcome, plain
from faults.warm import Ended, Shop

SHORT = 'lineages = [["S"]]'


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A command that reads a file: ``scene`` has its rows, ``files`` are what it writes beside them."""

    needs: tuple[str, ...]
    words: tuple[str, ...]
    scene: str | None = None
    files: tuple[str, ...] = ()


RUN = ("run", "gate.toml")
CHECKED = (
    Reader(needs=RUN, words=("analyze", "run", "--json")),
    Reader(needs=RUN, words=("gate", "run", "--all", "--rules", "gate.toml", "--json")),
    Reader(needs=RUN, words=("export", "run", "--to", "evidence", "-o", "out"), files=("out",)),
)
PAID = Reader(needs=("run", "gpt.toml"), words=(*BY_NAME["paid"].words[:-1], "--json", "--quiet"), scene="paid")
LOOKS = Reader(
    needs=("wrun", "s.json"),
    words=("watch", "wrun", "--baseline", "S", "--state", "s.json", "--json"),
    files=("s.json",),
)
LOG = Reader(needs=("log.eval",), words=BY_NAME["import-log"].words, scene="import-log")
MERGED = Reader(
    needs=("run",), words=("export", "run", "--to", "hf", "-o", "out", "--checkpoint", "CHILD"), files=("out",)
)
AGAIN = Reader(needs=("run",), words=BY_NAME["again"].words, scene="again")
TRAINED = Reader(
    needs=("srun", "study.toml"),
    words=("run", "study.toml", "-o", "srun", "--fork", "run", "--workers", "1", "--no-report", "--quiet"),
    scene="run",
)
# Of weights, those that cost little are asked more often; where several stand for a file, all are asked.
TARGETS: dict[str, Callable[[int], tuple[Reader, ...]]] = {
    "run.db": lambda number: CHECKED,
    "calls.db": lambda number: (PAID,),
    "watch": lambda number: (LOOKS,),
    "eval": lambda number: (LOG,),
    "weights": lambda number: (MERGED, MERGED, AGAIN, MERGED, TRAINED)[number % 5 :][:1],
}


def prepare(shop: Shop, world: World, work: Path, names: Sequence[str]) -> None:
    """The files that are flipped, and what their readers say undisturbed."""
    wanted = {name.split("/")[1] for name in names if name.startswith("flip/")}
    if not wanted:
        return
    if not (world.path / "calls.db").exists():
        _make_files(shop, world, work)
    readers = {one for target in wanted for number in range(5) for one in TARGETS[target](number)}
    for reader in readers:
        if reader.words in world.reference:
            continue
        if reader is PAID:
            _furnish(world, reader, work, "calls.db")
        else:
            world.furnish(reader.needs, work)
        world.reference[reader.words] = _ask(shop, world, reader, work)[1:]


def _make_files(shop: Shop, world: World, work: Path) -> None:
    _settle(world.path / "run" / "run.db")
    for scene, file in (("watch", "s.json"), ("paid", "run/calls.db")):
        world.furnish(BY_NAME[scene].needs, work)
        ended = shop.carry_out(world.words(BY_NAME[scene]), work)
        assert ended.code in (0, 1, 3), ended.err
        if scene == "paid":
            _settle(work / file)
        shutil.copyfile(work / file, world.path / Path(file).name)
    world.furnish((), work)
    start, end = STUDY.index("lineages"), STUDY.index("train_seeds")
    (work / "short.toml").write_text(f"{STUDY[:start]}{SHORT}\n{STUDY[end:]}")
    ended = shop.carry_out(["run", "short.toml", "-o", "srun", "--workers", "1", "--no-report", "--quiet"], work)
    assert ended.code == 0, ended.err
    shutil.copytree(work / "srun", world.path / "srun")


def _settle(path: Path) -> None:
    """Everything of a database into its one file."""
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _furnish(world: World, reader: Reader, work: Path, target: str) -> Path | None:
    """What a reader needs; the file to flip, of weights its directory."""
    world.furnish(reader.needs, work)
    if target == "calls.db":
        return Path(shutil.copyfile(world.path / "calls.db", work / "run" / "calls.db"))
    return {"run.db": work / "run" / "run.db", "watch": work / "s.json", "eval": work / "log.eval"}.get(target)


def _ask(shop: Shop, world: World, reader: Reader, work: Path) -> tuple[Ended, int | None, str, Any]:
    """How the command ended, and what is compared: exit code, output, what it wrote."""
    words = [world.child if word == "CHILD" else word for word in reader.words]
    ended = shop.carry_out(words, work)
    rows: Any = outcome(work, BY_NAME[reader.scene]) if reader.scene else {}
    files = {name: text for name, text in listing(work).items() if name.split("/")[0] in reader.files}
    if (work / "out" / "evidence.json").is_file():
        files = {"evidence": json.loads((work / "out" / "evidence.json").read_text())}
    return ended, ended.code, plain(ended.out), (rows, files)


def flip(path: Path, chance: random.Random) -> str:
    """Turn one bit of a file round; where."""
    data = bytearray(path.read_bytes())
    at, bit = chance.randrange(len(data)), chance.randrange(8)
    data[at] ^= 1 << bit
    path.write_bytes(data)
    return f"bit {bit} of byte {at} of {path.name}"


def _weights(world: World, work: Path, reader: Reader, chance: random.Random) -> Path:
    """A file of the weights that the reader opens, each byte as likely as any."""
    from faults.placed import find_weights

    root = work / reader.needs[0]
    place = root / find_weights(root, CHILD if reader is not TRAINED else "S")
    files = sorted(one for one in place.iterdir() if one.is_file())
    return chance.choices(files, [one.stat().st_size for one in files])[0]


def try_flip(shop: Shop, world: World, work: Path, name: str, seed: int) -> Found:
    """One flip by its name, such as ``flip/run.db/17``."""
    _, target, number = name.split("/")
    chance = random.Random(f"{seed} {name}")
    worst = Found(name, Kind.RIGHT, "")
    state = chance.getstate()
    for reader in TARGETS[target](int(number)):
        chance.setstate(state)
        path = _furnish(world, reader, work, target) or _weights(world, work, reader, chance)
        where = flip(path, chance)
        ended, *found = _ask(shop, world, reader, work)
        for kind, why in _judge(ended, found, world.reference[reader.words]):
            told = f"{where}: {' '.join(reader.words[:1])}: {why}"
            if kind is not Kind.TOLD:
                return Found(name, kind, told)
            worst = Found(name, kind, told)
    return worst


def _judge(ended: Ended, found: Sequence[Any], wanted: Sequence[Any]) -> Iterator[tuple[Kind, str]]:
    """What is to be said of it; nothing where code, output and files are the same."""
    if ended.code is None:
        yield Kind.HANG, "stopped"
    elif ended.torn:
        yield Kind.TRACEBACK, ended.err[-400:]
    elif tuple(found) == tuple(wanted):
        return
    elif _says_more(found[2], wanted[2]):
        yield Kind.TOLD, "the evidence says so"
    elif ended.code == wanted[0]:
        changed = "output" if found[1] != wanted[1] else "what it wrote"
        yield Kind.SILENT, f"exit {ended.code}, other {changed}; {ended.err[-200:]}"
    elif not ended.told:
        yield Kind.SILENT, f"exit {ended.code} without a word"
    else:
        yield Kind.TOLD, ended.err[-300:]


def _says_more(found: Any, wanted: Any) -> bool:
    """Whether evidence names something missing or changed that undisturbed evidence does not name."""
    one, other = found[1].get("evidence"), wanted[1].get("evidence")
    return isinstance(one, dict) and isinstance(other, dict) and bool(set(one["missing"]) - set(other["missing"]))
