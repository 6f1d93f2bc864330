"""Faults at real operations, flipped bits and bad inputs, counted by what became of them.

``python -m faults`` (by ``make faults``) prints a table and exits with 1 if anything was silent, lost, duplicated, hung
or ended in a traceback. Every case has a name and follows from the seed alone: ``--only kill/run/3`` does it again and
keeps its directory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import pickle
import queue
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from faults import warm
from faults.classes import FAILING, Found, Kind, render

TRIES = 3  # other operations for a fault that was not reached


def read_options(words: Sequence[str] | None = None) -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="faults", description=__doc__)
    options.add_argument("--seed", type=int, default=7)
    options.add_argument("--kills", type=int, default=160, help="about so many")
    options.add_argument("--write-faults", type=int, default=120, help="about so many")
    options.add_argument("--flips", type=int, default=200, help="of each of five kinds of files")
    options.add_argument("--inputs", type=int, default=250)
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--only", action="append", default=[], help="names, or beginnings of names, of cases")
    options.add_argument(
        "--scratch",
        type=Path,
        help="where to work, taking what the same code made there (default: a temporary directory)",
    )
    options.add_argument("--json", type=Path, help="write every case here")
    return options.parse_args(words)


def name_cases(options: argparse.Namespace) -> list[str]:
    """The names of all cases, in the order of the table."""
    from faults import bad_inputs, flips, placed

    names = [f"kill/{scene}/{n}" for scene, n in placed.place(options.kills)]
    names += [f"fault/{scene}/{n}" for scene, n in placed.place(options.write_faults)]
    names += [f"flip/{target}/{n}" for target in flips.TARGETS for n in range(options.flips)]
    names += [f"input/{kind}/{n}" for kind, n in bad_inputs.share(options.inputs)]
    if options.only:
        names = [one for one in names if any(one == word or one.startswith(f"{word}/") for word in options.only)]
    return names


def try_case(shop: warm.Shop, world: Any, work: Path, name: str, seed: int) -> Found:
    """One case by its name. An error of the harness itself counts as a traceback, so that it is seen."""
    from faults import bad_inputs, flips, placed

    ways: dict[str, Callable[..., Found]] = {"flip": flips.try_flip, "input": bad_inputs.try_input}
    way = ways.get(name.partition("/")[0], placed.try_fault)
    try:
        for attempt in range(TRIES):
            found = way(shop, world, work, name, seed + 1000 * attempt)
            if found.kind is not Kind.MISSED:
                break
        return found
    except Exception:
        return Found(name, Kind.TRACEBACK, f"the harness failed: {traceback.format_exc()}")


def is_bound(name: str) -> bool:
    """Whether a case must stand in the directory of its undisturbed command.

    ``gate --again`` calls the model by its whole path, and episodes draw their luck from the model's name.
    """
    from faults import flips

    group, what, number = name.split("/")
    if group == "flip":
        return flips.AGAIN in flips.TARGETS[what](int(number))
    return what == "again"


def labour(number: int, names: Sequence[str], world: Any, options: argparse.Namespace, queues: tuple[Any, Any]) -> None:
    """A process that does ``names``, its own cases, and then of those that wait for any process."""
    waiting, done = queues
    shop, work = warm.Shop(), options.scratch / f"work-{number}"
    for name in itertools.chain(names, iter(waiting.get, None)):
        done.put(try_case(shop, world, work, name, options.seed))
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    done.put(sum(one.ru_utime + one.ru_stime for one in spent))


def make_world(options: argparse.Namespace, names: Sequence[str], scratch: Path) -> Any:
    """What all cases start from: inputs, a finished run, and every command undisturbed."""
    from faults import bad_inputs, flips, placed
    from faults.scenes import BY_NAME, CHILD, World, make_inputs, serve, write_settings

    ours, theirs = multiprocessing.get_context("fork").Pipe()
    provider = multiprocessing.get_context("fork").Process(target=serve, args=(theirs.send,), daemon=True)
    provider.start()
    shop, work, noted = warm.Shop(), scratch / "work-0", scratch / "world.pickle"
    if noted.exists():  # a directory that an earlier call has left
        world = pickle.loads(noted.read_bytes())
        world.address = ours.recv()
        write_settings(world)
    else:
        world = World(scratch / "world", address=ours.recv())
        make_inputs(world)
        world.furnish(("study.toml",), work)
        ended = shop.carry_out(BY_NAME["run"].words, work)
        assert ended.code == 0, ended.err
        shutil.copytree(work / "run", world.path / "run")
        if any("join" in name.split("/") for name in names):
            world.furnish(("seed.toml",), work)
            ended = shop.carry_out(("run", "seed.toml", "-o", "seed", *BY_NAME["run"].words[4:]), work)
            assert ended.code == 0, ended.err
            shutil.copytree(work / "seed", world.path / "seed")
        world.child = placed.find_child(world.path / "run", CHILD)
    for name in BY_NAME:
        wanted = any(one.split("/")[:2] in (["kill", name], ["fault", name]) for one in names)
        if wanted and name not in world.reference:
            world.reference[name] = placed.refer(shop, world, BY_NAME[name], work)
    flips.prepare(shop, world, work, names)
    bad_inputs.prepare(shop, world, work, names)
    noted.write_bytes(pickle.dumps(world))
    return world


def main() -> int:
    """All cases, shared out to processes; the exit code."""
    options = read_options()
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="holdfast-faults-"))
    if warm.SHIM not in os.environ:
        scratch.mkdir(parents=True, exist_ok=True)
        words = [*sys.argv[1:], *(() if options.scratch else ("--scratch", str(scratch)))]
        try:
            return warm.start(words, scratch.resolve())
        finally:
            if options.scratch is None and not options.only:
                shutil.rmtree(scratch, ignore_errors=True)
    scratch = options.scratch = scratch.resolve()
    warm.load_everything()
    names = name_cases(options)
    began = time.monotonic()
    world = make_world(options, names, scratch)
    say(f"{len(names)} cases; the undisturbed commands took {time.monotonic() - began:.0f} s")
    found = share_out(names, world, options)
    places = {name: place for place, name in enumerate(names)}
    found.sort(key=lambda one: places[one.name])
    say(render(found))
    say(f"{sum(one.placeless for one in found)} messages name no file; {time.monotonic() - began:.0f} s")
    if options.json:
        rows = [{"name": one.name, "class": one.kind, "told": one.told} for one in found]
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if options.only:
        say(f"kept in {scratch}")
    return int(any(one.kind in FAILING for one in found) or len(found) != len(names))


def share_out(names: Sequence[str], world: Any, options: argparse.Namespace) -> list[Found]:
    """Cases to processes, forked so that each has everything loaded."""
    context = multiprocessing.get_context("fork")
    count = max(1, min(options.processes, len(names)))
    waiting, done = context.Queue(), context.Queue()
    bound = [name for name in names if is_bound(name)]
    processes = [
        context.Process(target=labour, args=(n, () if n else bound, world, options, (waiting, done)))
        for n in range(count)
    ]
    for process in processes:
        process.start()
    # After the forks: a queue that is written to has a thread, and a fork while it works may inherit its locks.
    for name in (*(one for one in names if not is_bound(one)), *[None] * count):
        waiting.put(name)
    found: list[Found] = []
    working, spent = count, 0.0
    while working:
        try:
            one = done.get(timeout=5)
        except queue.Empty:
            assert any(process.is_alive() for process in processes), "a process of the harness died"
            continue
        if isinstance(one, float):
            working, spent = working - 1, spent + one
            continue
        found.append(one)
        if options.only or one.kind in FAILING or one.kind is Kind.LEFTOVER:
            say(f"{one.kind}: {one.name}: {one.told}")
        if len(found) % 50 == 0:
            say(f"{len(found)} of {len(names)}")
    for process in processes:
        process.join()
    say(f"the cases took {spent:.0f} s of CPU time")
    return found


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
