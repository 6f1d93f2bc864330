"""The report's list of cases: an index small enough for the page, and the texts in shards beside it.

Shards are read one at a time, when a reader asks.

A page opened from disk has no origin. There, Chromium refuses a script that carries ``integrity`` (the request
would have to be a CORS request, which file: does not have), and a hash in ``script-src`` matches an external
script only through its ``integrity``; fetch and workers are refused as well. What is left for plain scripts is
``'strict-dynamic'`` or ``file:``, both of which run whatever the file holds, with the page's rights. A shard is
therefore an HTML file in a frame with ``sandbox="allow-scripts"``: an opaque origin that reaches neither the page
nor the network, under its own ``default-src 'none'`` with the hash of a one-line loader. It posts its text, and
the page accepts it only if its SHA-256 is the one that the page holds. The text is JSON, deflated, in base64.

Whoever can change a shard can run scripts in its frame, and there they stay. The browser test tries a shard without
its policy that reaches for the page (``parent``, ``top``, storage, navigation, a popup, the page's own messages) and
one that posts another shard's text: the first finds an opaque origin without rights, the second has another digest.
Whoever can change the page itself can change everything; that is true of any file.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from holdfast.judges.rubric.digits import show_reply
from holdfast.records import JSON, Case, Checkpoint, Flag, Message, Score, Trajectory
from holdfast.records.arrays import Bools, Ints
from holdfast.report.words.inert import dump_json, pack_text, show_line, trim_text
from holdfast.report.words.labels import FIRST_OBJECTIVE, Lineage, is_control, name_axes, name_kind, name_lineage
from holdfast.rollout.audit import UNFIT
from holdfast.store import Store
from holdfast.store.cells import own_cases, part_masks, read_cells
from holdfast.store.codec import FLAG_BITS
from holdfast.store.tables import TrajectoryTable
from holdfast.study.noted import read_compared

LOADER = 'parent.postMessage(document.getElementById("shard").textContent,"*")'
MESSAGE_CHARACTERS = 60_000  # of one message; a few runaway replies are megabytes long
JSON_CHARACTERS = 8_000  # of a world's state or a call's arguments
SHARD_CHARACTERS = 3_000_000  # of JSON in one shard; about 400 kB when packed
TITLE_CHARACTERS = 160
TRAIN, TEST = 0, 1
# Parts beside the cases to train on and the held-out ones.
BESIDE = {"attack": 2, "shift": 3, "probe": 4, "approval": 5}
# Of each form of attack, kind of shift and dimension of probe, the page holds so many cases with all their episodes.
BESIDE_CASES = 12
USER_CASES = 2  # of each setting, environment and label of simulated users
SCORE_DIGITS = 3


def hash_source(text: str) -> str:
    """The CSP source expression that allows exactly ``text`` inline."""
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(text: str, limit: int = MESSAGE_CHARACTERS) -> dict[str, Any]:
    kept, left_out = trim_text(text, limit)
    return {"c": kept, "x": left_out} if left_out else {"c": kept}


def _json_text(value: JSON) -> dict[str, Any]:
    return _text(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_INDENT_2).decode(), JSON_CHARACTERS)


def message_content(message: Message) -> dict[str, Any]:
    """A message as the page reads it; ``d`` counts the characters of a detail, which is left out."""
    content: dict[str, Any] = {"r": message.role, **_text(message.content)}
    if message.name:
        content["n"] = message.name
    if message.tool_calls:
        content["t"] = [{"n": call.name, **_json_text(call.arguments)} for call in message.tool_calls]
    if message.detail:
        content["d"] = len(orjson.dumps(message.detail, option=orjson.OPT_NON_STR_KEYS).decode())
    return content


def score_content(score: Score) -> dict[str, Any]:
    """A score as the page reads it, with the judge's reply."""
    content: dict[str, Any] = {"j": score.judge, "o": score.objective, "v": score.value, "k": score.repeat}
    reply = None if score.reply is None else _text(show_reply(score.reply))
    beside = {"m": score.missing, "l": score.label, "r": reply}
    return content | {key: value for key, value in beside.items() if value is not None}


def trajectory_content(
    trajectory: Trajectory, scores: Sequence[Score], before: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A trajectory with its scores as the page reads them; ``before`` is its first world so, where that is at hand."""
    content: dict[str, Any] = {
        "i": trajectory.id,
        "m": [message_content(message) for message in trajectory.messages],
        "s": [score_content(score) for score in scores],
        "e": trajectory.ending.value,
        "f": [flag.value for flag in trajectory.flags],
        "n": [trajectory.calls, trajectory.invalid_calls, trajectory.tokens],
    }
    if trajectory.world_after is not None:
        content["w"] = _json_text(trajectory.world_after)
    if trajectory.world_before is not None:
        content["b"] = before or _json_text(trajectory.world_before)
    return content


def case_content(case: Case) -> dict[str, Any]:
    """A case's opening messages, tool names and facts as the page reads them."""
    messages, tools = [message_content(message) for message in case.messages], [tool.name for tool in case.tools]
    return {"m": messages, "t": tools} | ({"a": _json_text(case.facts)} if case.facts else {})


class ShardWriter:
    """Fills shards with JSON and writes each when it is full, so that memory holds one shard only.

    ``shards`` has the file name of each and the SHA-256 of its packed text in base64, ``size`` the bytes of all.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._parts: dict[str, dict[str, str]] = {"cases": {}, "runs": {}}  # id → JSON
        self._characters = 0
        self.shards: list[tuple[str, str]] = []
        self.size = 0

    def add(self, part: str, key: str, content: dict[str, Any]) -> int:
        """Put a case or a run into the present shard, or into a new one where it has no room; returns its number.

        A case has no room in a shard that is half full, so that its runs may stand beside it.
        """
        text = dump_json(content)
        room = SHARD_CHARACTERS / 2 if part == "cases" else SHARD_CHARACTERS - len(text)
        if self._characters > max(room, 0):
            self.flush()
        self._parts[part][key] = text
        self._characters += len(text)
        return len(self.shards)

    def flush(self) -> None:
        """Write the present shard, unless it is empty."""
        if not self._characters:
            return
        parts = {
            name: "{" + ",".join(f"{dump_json(key)}:{text}" for key, text in members.items()) + "}"
            for name, members in self._parts.items()
        }
        packed = pack_text(f'{{"cases":{parts["cases"]},"runs":{parts["runs"]}}}')
        policy = f"default-src 'none'; script-src '{hash_source(LOADER)}'"
        page = (
            '<!doctype html><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}"><title>shard</title>'
            f'<script type="application/octet-stream" id="shard">{packed}</script><script>{LOADER}</script>\n'
        )
        name = f"{len(self.shards):04d}.html"
        (self._folder / name).write_text(page, encoding="ascii")
        self.shards.append((name, b64encode(hashlib.sha256(packed.encode()).digest()).decode()))
        self.size += len(page)
        self._parts, self._characters = {"cases": {}, "runs": {}}, 0


def write_cases(store: Store, folder: Path, colors: Mapping[Lineage, int]) -> dict[str, Any]:
    """Write all shards into ``folder`` and return the index that the page carries.

    Trajectories are read case by case; memory holds one shard and the columns of the run.
    """
    cells = read_cells(store, "all")
    scores, runs = cells.scores, cells.episodes
    ids, cases = store.trajectory_ids(part="all"), {case.id: case for case in store.cases()}
    means = cells.value.reshape(len(ids), len(scores.judges) * len(scores.objectives)).round(SCORE_DIGITS)
    planned = {name: number for number, name in enumerate(store.planned_ids(part="all"))}
    numbers = np.array([planned[name] for name in ids], dtype=np.int64)
    columns = (numbers, runs.checkpoint, runs.rollout, runs.flags, _parts(store, runs, scores.case_ids))
    facts = np.column_stack(columns).tolist()
    order = np.lexsort((numbers, runs.rollout, runs.checkpoint, runs.case))
    order = order[_listed(cases, scores.case_ids, store)[runs.case[order]]]
    groups = np.split(order, np.flatnonzero(np.diff(runs.case[order])) + 1) if len(order) else []
    of_case = [(cases[scores.case_ids[runs.case[rows[0]]]], rows) for rows in groups]
    writer = ShardWriter(folder)
    listed = []
    for case, rows in sorted(of_case, key=lambda pair: (pair[0].suite, pair[0].number)):
        entry: dict[str, Any] = {"k": case.number, "u": case.suite, "f": case.family, "t": case_title(case)}
        entry |= {"s": writer.add("cases", case.id, case_content(case)), "i": case.id, "r": []}
        wanted = [ids[row] for row in rows]
        start, before = None, None  # episodes of a case begin in one world
        for row, trajectory, judged in zip(
            rows, store.trajectories(wanted, cases=cases), store.scores_of(wanted), strict=True
        ):
            number, checkpoint, rollout, flags, part = facts[row]
            if trajectory.world_before is not start:
                start = trajectory.world_before
                before = None if start is None else _json_text(start)
            shard = writer.add("runs", str(number), trajectory_content(trajectory, judged, before))
            values = [None if np.isnan(value) else value for value in means[row].tolist()]
            entry["r"].append([number, checkpoint, rollout, flags, shard, values, part])
        listed.append(entry)
    writer.flush()
    return {
        "shards": writer.shards,
        "slots": [[judge, objective] for judge in scores.judges for objective in scores.objectives],
        "objectives": sorted(scores.objectives, key=lambda name: (name != FIRST_OBJECTIVE, name)),
        "flags": [name_kind(flag.value) for flag in FLAG_BITS],
        "flagBits": list(FLAG_BITS.values()),
        "findings": _findings(),
        "checkpoints": _checkpoint_rows(runs.checkpoints, colors, read_compared(store, runs.checkpoints)),
        "cases": listed,
        "bytes": writer.size,
    }


def _listed(cases: Mapping[str, Case], case_ids: Sequence[str], store: Store) -> Bools:
    """Which cases the page lists: all to train on and held out, and the first of each sort beside them.

    Of simulated users, those to practise on are many and alike, so that they are listed like those held out.
    """
    few = (*BESIDE, "practice")
    beside = {name for parts in store.splits().values() for part in few for name in parts.get(part, ())}
    seen: dict[tuple[object, ...], int] = {}
    listed = np.ones(len(case_ids), dtype=np.bool_)
    apart = [(cases[name], place) for place, name in enumerate(case_ids) if name in beside]
    for case, place in sorted(apart, key=lambda pair: (pair[0].suite, pair[0].number)):
        variant = case.facts.get("variant") or {}
        sort = (variant.get("kind"), variant.get("form"), case.facts.get("dimension"), case.facts.get("benign"))
        if "gameable" in case.facts:  # a pair has two ends; practice has no other end
            ends = (case.facts.get("gameable"), case.facts.get("pair") is None)
            sort = (case.facts.get("setting"), case.facts.get("environment"), *ends)
        seen[sort] = seen.get(sort, 0) + 1
        listed[place] = seen[sort] <= (USER_CASES if "gameable" in case.facts else BESIDE_CASES)
    return listed


def _findings() -> list[list[Any]]:
    """What the list of cases can be filtered by: name, words, and masks of flags, one bit of each of which is set."""
    invented = FLAG_BITS[Flag.INVENTED_RESULT] | FLAG_BITS[Flag.INVENTED_MIDWAY]
    masks = {
        "unfit": [sum(FLAG_BITS[flag] for flag in UNFIT)],
        "no_call_and_invented": [FLAG_BITS[Flag.NO_CALL], invented],
        "any_invention": [invented],
        **{flag.value: [bit] for flag, bit in FLAG_BITS.items()},
    }
    return [[name, name_kind(name), found] for name, found in masks.items()]


def _parts(store: Store, runs: TrajectoryTable, case_ids: Sequence[str]) -> Ints:
    """The part of each trajectory's case in its checkpoint's split; all are held out where nothing was split."""
    splits = store.splits()
    own = own_cases(runs.checkpoints, part_masks(splits, case_ids, "test"))
    beside = {name: part for parts in splits.values() for part, ids in parts.items() if part in BESIDE for name in ids}
    apart = np.array([BESIDE[beside[one]] if one in beside else -1 for one in case_ids], dtype=np.int64)
    table = np.where(apart >= 0, apart, np.where(own, TEST, TRAIN))
    return np.asarray(table[runs.checkpoint, runs.case], dtype=np.int64)


def case_title(case: Case) -> str:
    """The user's first words in a case, on one line, with a count of what is left out.

    Before those of a case that is made of another stands how.
    """
    words = next((message.content for message in case.messages if message.role == "user"), "")
    variant = case.facts.get("variant")
    if isinstance(variant, Mapping):
        words = f"[{variant.get('kind')}: {str(variant.get('form')).replace('_', ' ')}] {words}"
    elif "gameable" in case.facts:
        words = f"[{case.facts.get('setting')}: {'gameable' if case.facts['gameable'] else 'other'} user] {words}"
    kept, left_out = trim_text(show_line(words), TITLE_CHARACTERS)
    return f"{kept} … (+{left_out:,} characters)" if left_out else kept


def _checkpoint_rows(
    checkpoints: Sequence[Checkpoint],
    colors: Mapping[Lineage, int],
    compared: tuple[Checkpoint, Checkpoint] | None,
) -> list[dict[str, Any]]:
    """What the page knows of each checkpoint; of two bases that are ``compared`` the first is the other's parent."""
    number = {checkpoint.id: index for index, checkpoint in enumerate(checkpoints)}
    parents = {one.id: one.parent_id or "" for one in checkpoints}
    if compared is not None:
        parents[compared[1].id] = compared[0].id
    rows = []
    for checkpoint in checkpoints:
        seeds = {"split": checkpoint.split_seed, "seed": checkpoint.train_seed}
        about = [name_axes(checkpoint.axes), *(f"{name} {seed}" for name, seed in seeds.items() if seed is not None)]
        rows.append(
            {
                "b": show_line(checkpoint.base),
                "l": name_lineage(checkpoint.lineage),
                "a": show_line(" · ".join(filter(None, about))),
                "p": number.get(parents[checkpoint.id], -1),
                "c": colors.get(checkpoint.lineage, 0),
                "m": int(not is_control(checkpoint)),
            }
        )
    return rows
