"""The commands that meet faults, what each is given, and what of its result must be the same afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builders.sample_studies import RULES

STUDY = """
[study]
name = "faults"
lineages = [["S"], ["S", "T"]]
train_seeds = [0]
draws = 100

[model]
bases = ["tiny"]
base_seeds = [0]
hidden = 48
layers = 2
heads = 2
ffn = 96

[model.sft]
demonstrations = 6000

[suite]
name = "office"
train_cases = 12
test_cases = 6

[rollouts]
per_train_case = 4
per_test_case = 2
batch_size = 16

[judges.state]
kind = "state"

[stages.S]
objective = "safety"
steps = 2
learning_rate = 3e-4
pairs_per_step = 4

[stages.T]
objective = "safety"
steps = 2
learning_rate = 3e-4
pairs_per_step = 4
"""
GATE = "[gate]\nmargin = 0.5\nalpha = 0.05\n"
CHILD = "S,T"
IGNORED = ("run.db-wal", "run.db-shm", "calls.db-wal", "calls.db-shm", "run.lock")
CLOCKS = ("seconds", "started", "finished", "created")  # keys whose values follow the clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A command: ``needs`` are copied from the world; the files of ``out`` are each written whole or not at all.

    ``run`` is the directory of a run that it writes to; ``says`` whether a repeat prints the same; ``once`` whether
    ``out`` is a directory that appears whole, after which a repeat is refused. ``weight`` is its share of the faults.
    """

    name: str
    needs: tuple[str, ...]
    words: tuple[str, ...]
    out: tuple[str, ...] = ()
    run: str | None = None
    says: bool = False
    once: bool = False
    weight: float = 1.0


def export(form: str, *more: str) -> Scene:
    words = ("export", "run", "--to", form, "-o", "out", *more)
    return Scene(name=f"export-{form}", needs=("run",), words=words, out=("out",), says=True, once=True, weight=0.5)


SCENES = (
    Scene(
        name="run",
        needs=("study.toml",),
        words=("run", "study.toml", "-o", "run", "--workers", "1", "--no-report", "--quiet"),
        run="run",
        weight=5.0,
    ),
    Scene(
        name="again",
        needs=("run",),
        words=("gate", "run", "--child", CHILD, "--again", "-o", "again", "--workers", "1", "--json", "--quiet"),
        run="again",
        says=True,
        weight=3.0,
    ),
    Scene(
        name="fork",
        needs=("run", "more.toml"),
        words=(
            *("run", "more.toml", "-o", "run", "--fork", "fork"),
            *("--workers", "1", "--no-report", "--quiet"),
        ),
        run="fork",
        weight=0.5,
    ),
    Scene(
        name="gate-logs",
        needs=("log.eval", "later.eval", "tmp"),
        words=(
            *("gate", "--parent", "log.eval", "--child", "later.eval"),
            *("--score", "safety=+safety[0,1]", "--json", "--junit", "j.xml"),
        ),
        out=("j.xml",),
        says=True,
        weight=0.5,
    ),
    Scene(
        name="gate",
        needs=("run", "gate.toml"),
        words=("gate", "run", "--all", "--rules", "gate.toml", "--json", "--junit", "j.xml", "--markdown", "m.md"),
        out=("j.xml", "m.md"),
        says=True,
        weight=0.7,
    ),
    *(export(form) for form in ("jsonl", "csv", "parquet", "trl", "inspect", "evidence")),
    export("hf", "--checkpoint", "CHILD"),
    Scene(
        name="join",
        needs=("run", "seed"),
        words=("join", "run", "seed", "-o", "out", "--quiet"),
        out=("out",),
        once=True,
        weight=0.7,
    ),
    Scene(name="report", needs=("run",), words=("report", "run"), run="run", says=True),
    Scene(
        name="watch",
        needs=("wrun",),
        words=("watch", "wrun", "--baseline", "S", "--state", "s.json", "-o", "page", "--markdown", "m.md", "--json"),
        out=("s.json", "m.md", "page"),
        says=True,
    ),
    Scene(
        name="judge",
        needs=("run", "rules.toml"),
        words=("judge", "run", "--with", "rules", "--judges", "rules.toml", "--quiet"),
        run="run",
    ),
    Scene(
        name="paid",
        needs=("run", "gpt.toml"),
        words=("judge", "run", "--with", "gpt", "--judges", "gpt.toml", "--quiet"),
        run="run",
        weight=0.7,
    ),
    Scene(name="import-tar", needs=("match.tar",), words=("import", "match.tar", "-o", "run", "--quiet"), run="run"),
    Scene(
        name="import-log",
        needs=("log.eval",),
        words=("import", "log.eval", "-o", "run", "--score", "safety=+safety[0,1]", "--quiet"),
        run="run",
        weight=0.7,
    ),
)
BY_NAME: Mapping[str, Scene] = {one.name: one for one in SCENES}


@dataclass(slots=True)
class World:
    """What commands are given, in a directory; ``child`` is the id of the checkpoint that is exported."""

    path: Path
    child: str = ""
    address: str = ""
    reference: dict[str, Any] = field(default_factory=dict)

    def furnish(self, needs: tuple[str, ...], work: Path) -> None:
        """A fresh directory ``work`` with copies of what a command needs."""
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for name in needs:
            source = self.path / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, work / name)

    def words(self, scene: Scene) -> list[str]:
        """The command of a scene."""
        return [self.child if word == "CHILD" else word for word in scene.words]


def serve(send: Callable[[str], None]) -> None:
    """A provider's life, in a process of its own: every reply is the same judgement."""
    from holdfast.models.fakes import FakeProvider, request_digest

    def verdict(request: Mapping[str, Any]) -> str:
        labels = request["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"]
        label = next(one for one in labels if one in ("Possible Mild Risk", "Good"))
        return json.dumps({"reasoning": f"seen {request_digest(request)}", "label": label, "score": 2})

    with FakeProvider(answers=verdict) as provider:
        send(provider.base_url)
        threading.Event().wait()


def make_inputs(world: World) -> None:
    """Everything that is made without a command."""
    from builders import inspect_samples, watch_samples
    from builders.published_samples import sample, write_archive

    path = world.path
    path.mkdir(parents=True)
    write_settings(world)
    watch_samples.write_run(path / "wrun", {"S": 2.5, "H1": 2.4, "H2": 1.9}, cases=12)
    write_archive(path / "match.tar", sample())
    scored = [inspect_samples.sample(n, scores={"safety": n % 2}, epoch=e) for n in range(6) for e in (1, 2)]
    inspect_samples.log(path / "log.eval", scored)
    inspect_samples.log(path / "later.eval", scored, model="vllm/later")
    (path / "tmp").mkdir()


def write_settings(world: World) -> None:
    """The files of settings; the provider's address is another one each time."""
    remote = '[judges.gpt]\nkind = "rubric"\nmodel = "judge"\n[models.judge]\nkind = "remote"\n'
    remote += f'name = "openai-api/fake/judge"\n[endpoints.judge]\nbase_url = "{world.address}"\n'
    more, seed = STUDY.replace("draws = 100", "draws = 110"), STUDY.replace("train_seeds = [0]", "train_seeds = [1]")
    for name, text in {"study": STUDY, "more": more, "seed": seed, "rules": RULES, "gate": GATE, "gpt": remote}.items():
        (world.path / f"{name}.toml").write_text(text)


# --- what must be the same ---------------------------------------------------------------------------------------


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def listing(work: Path) -> dict[str, str]:
    """Every file and directory below ``work`` but those that a database keeps for itself, with the file's digest."""
    return {
        str(one.relative_to(work)): digest(one) if one.is_file() else "directory"
        for one in sorted(work.rglob("*"))
        if one.name not in IGNORED
    }


def _rows(run: Path, spare: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What a run's database holds, by table, read from a copy so that the run stays as it was left."""
    shutil.rmtree(spare, ignore_errors=True)
    spare.mkdir()
    for name in ("run.db", "run.db-wal", "run.db-journal"):
        if (run / name).exists():
            shutil.copyfile(run / name, spare / name)
    found: dict[str, list[tuple[Any, ...]]] = {}
    try:
        with closing(sqlite3.connect(spare / "run.db")) as db:
            for table, query in QUERIES.items():
                try:
                    found[table] = sorted(db.execute(query).fetchall(), key=repr)
                except sqlite3.OperationalError:
                    found[table] = []  # before the first commit
    finally:
        shutil.rmtree(spare, ignore_errors=True)
    return found


QUERIES = {
    "cases": "SELECT id, suite, number, family FROM cases",
    "splits": "SELECT split_seed, part, id FROM splits JOIN cases ON key = case_key",
    "checkpoints": "SELECT id, body FROM checkpoints",
    "trajectories": "SELECT t.key, t.id, c.id, rollout, ending, flags, calls, invalid_calls, tokens, x.digest"
    " FROM trajectories t JOIN cases c ON c.key = case_key JOIN texts x ON x.key = t.text",
    "scores": "SELECT t.id, j.name, j.objective, j.rubric, repeat, value, missing, label, x.digest FROM scores s"
    " LEFT JOIN texts x ON x.key = s.reply"
    " JOIN trajectories t ON t.key = s.trajectory JOIN judges j ON j.key = s.judge",
    "steps": "SELECT fingerprint, kind, name, status FROM steps",
    "done": "SELECT fingerprint, finished FROM steps WHERE status = 'done'",
    "batches": "SELECT fingerprint, batch FROM batches",
}
CLOCKED = ("done",)
KEPT = ("weights", "report", "analysis.json")


def committed(work: Path, scene: Scene) -> dict[str, list[tuple[Any, ...]]]:
    """What of the run that a scene writes to is committed."""
    if scene.run is None or not (work / scene.run / "run.db").is_file():
        return {}
    return _rows(work / scene.run, work.parent / f"{work.name}.spare")


def outcome(work: Path, scene: Scene) -> dict[str, Any]:
    """What of a result must be equal: rows of a run, weights, ``analysis.json``, files; nothing that has a clock."""
    if scene.run is None:
        return {name: text for name, text in listing(work).items() if name.split("/")[0] in scene.out}
    rows = {name: found for name, found in committed(work, scene).items() if name not in CLOCKED}
    files = listing(work / scene.run) if (work / scene.run).is_dir() else {}
    kept = {name: text for name, text in files.items() if name.split("/")[0] in KEPT}
    return {**rows, **kept}


def plain(text: str) -> str:
    """Output without what follows the clock."""
    try:
        found = json.loads(text)
    except ValueError:
        return text

    def clear(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clear(one) for key, one in value.items() if key not in CLOCKS}
        return [clear(one) for one in value] if isinstance(value, list) else value

    return json.dumps(clear(found), sort_keys=True)
