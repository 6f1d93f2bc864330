"""Input that is wrong, made by code, and whether it is refused in a line: exit code 2 and a finding, no traceback.

Every input here is one that must be refused: what is taken without a word is counted as silent.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from builders.sample_studies import RULES

from faults.classes import Found, Kind
from faults.scenes import GATE, STUDY, World
from faults.warm import Shop

KINDS = ("study", "rules", "judges", "traces", "logs", "models")
Make = Callable[[Path], None]
NEVER = ('"x"', "[]", "{}", "nan", "-1", "-inf", "1" + "0" * 400, "1e400")  # what no count and no margin is
COUNTS = ("draws", "hidden", "layers", "heads", "ffn", "demonstrations", "train_cases", "test_cases", "per_train_case",
          "per_test_case", "batch_size", "steps", "learning_rate", "pairs_per_step", "train_seeds")  # fmt: skip
MARGINS = ("margin", "alpha", "severe_at_most", "severe_margin", "severe_ceiling", "helpfulness_margin",
           "refusal_margin", "validity_margin", "min_coverage")  # fmt: skip
WORDS = ("blocking", "required", "incomplete", "openings", "combine", "bound", "cluster")


def share(count: int) -> list[tuple[str, int]]:
    """Kinds and numbers of ``count`` inputs."""
    return [(KINDS[n % len(KINDS)], n // len(KINDS)) for n in range(count)]


def text(said: str | bytes) -> Make:
    return lambda path: path.write_bytes(said if isinstance(said, bytes) else said.encode()) and None


def replaced(source: str, key: str, value: str) -> str:
    """A TOML text in which the first line of a key has another value."""
    lines = source.splitlines()
    at = next(n for n, line in enumerate(lines) if line.split(" = ")[0] == key)
    return "\n".join([*lines[:at], f"{key} = {value}", *lines[at + 1 :]]) + "\n"


def any_file(good: str) -> list[Make]:
    """What no file of settings is, whatever it should hold."""
    return [
        text(""),
        text(bytes(range(128, 256))),
        text(good.encode("utf-16")),
        text(good.encode() + b"x = '\xff'\n"),
        text(good + '\n"" = 1\n'),
        text(good + "\nx = " + "[" * 5000 + "]" * 5000),
        text(good + "\n" + ".".join("a" * 400) + " = 1"),
        text(good + "\n" + good),
        text("[[[["),
        text(b"\0" * 64),
        text(good + "\n[unknown_table]\nx = 1\n"),
        text(b"#" * (5 << 20)),
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: None,
    ]


def studies() -> list[Make]:
    made = [text(replaced(STUDY, key, value)) for key in COUNTS for value in NEVER]
    for old, new in {
        '[["S"], ["S", "T"]]': '[["S"], ["S", "U"]]',
        "[[": "[[[",
        '"safety"': '"kindness"',
        '"office"': '"nowhere"',
        '["tiny"]': '["big"]',
        'kind = "state"': 'kind = "stat"',
        'name = "faults"': 'name = "../x"',
        "[suite]": "[suit]",
        "train_seeds": "train_seed",
        "heads = 2": "heads = 7",
        "[stages.T]": '[stages."a,b"]',
    }.items():
        made.append(text(STUDY.replace(old, new)))
    return made + any_file(STUDY)


def rules() -> list[Make]:
    made = [text(f"[gate]\n{key} = {value}\n") for key in MARGINS for value in NEVER]
    made += [
        text(f"[gate]\n{key} = {value}\n") for key in WORDS for value in ('"nothing"', "1", "true", '["safety", 1]')
    ]
    return [*made, text("[gate]\nmargins = 0.1\n"), text("gate = 1\n"), *any_file(GATE)]


def judges() -> list[Make]:
    made = [text(RULES.replace("value = 3", f"value = {value}")) for value in (*NEVER[:-2], "4", "true")]
    for old, new in {
        'kind = "rules"': 'kind = "rule"',
        "value = 3\n": "\n",
        '"no_call"': '"no_cal"',
        "when = {": "whem = {",
        "helpfulness": "kindness",
        "safety]]": "safety]",
        'flags = ["no_call"]': 'reply = "("',
        'flags = [ "no_call"]': "",
    }.items():
        if old in RULES:
            made.append(text(RULES.replace(old, new)))
    model = '[judges.rules]\nkind = "rubric"\nmodel = "m"\n[models.m]\nkind = "remote"\nname = "openai-api/x/y"\n'
    for more in ("", '[endpoints.m]\nbase_url = "ftp://x"\n', '[endpoints.m]\nbase_url = "http://10.0.0.1/v1"\n',
                 '[endpoints.m]\nbase_url = "https://u:p@x/v1"\n', '[endpoints.m]\nbase_url = "https://x:99999999/v1"\n',
                 '[endpoints.m]\nbase_url = "https://x/v1"\nkey_env = "HOLDFAST_NO_SUCH_KEY"\n',
                 '[endpoints.m]\nbase_url = "http://169.254.169.254/v1"\n'):  # fmt: skip
        made.append(text(model + more))
    made += [
        text('[judges.rules]\nkind = "rubric"\nmodel = "nobody"\n'),
        text("[judges.rules]\n"),
        text("[judges]\n"),
        text("judges = 5\n"),
        text('[judges.rules]\nkind = "rules"\n'),
        text('[judges.rules]\nkind = "rules"\nrules = 5\n'),
        text('[judges.rules]\nkind = "rules"\n[judges.rules.rules.safety]\nvalue = 1\n'),
        text(RULES + '[suite]\nname = "office"\n'),
        text(RULES.replace('{ flags = ["no_call"] }', "5")),
        text(RULES.replace('["no_call"]', "5")),
    ]
    return made + any_file(RULES)


def traces(chance: random.Random) -> list[Make]:
    """JSON lines of which one is broken; all are read with ``--strict``."""
    from builders.watch_samples import chat_line

    def spoiled(change: Callable[[dict[str, Any]], Any]) -> Make:
        rows: list[Any] = [chat_line(number) for number in range(6)]
        rows[3] = change(rows[3])
        return text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))

    good = json.dumps(chat_line(3))
    made = [spoiled(lambda row, cut=cut: good[:cut]) for cut in chance.sample(range(2, len(good) - 1), 24)]
    made += [spoiled(lambda row, value=value: {**row, "messages": value}) for value in (5, "x", [5], [[]], {"a": 1})]
    made += [
        spoiled(lambda row, value=value: value) for value in ("5", "null", '"x"', "[1]", "{} {}", "NaN", "{'a': 1}")
    ]
    made += [
        spoiled(lambda row: json.dumps(row)[:-1] + ', "model": "y", "model": "z"}'),
        spoiled(lambda row: "[" * 3000 + "]" * 3000),
        spoiled(lambda row: {**row, "messages": [{"role": "user", "content": {"deep": 1}}]}),
        spoiled(lambda row: {**row, "messages": [{"role": 5, "content": "x"}]}),
        text(""),
        text(good.encode("utf-16")),
        text(b"\xff\xfe\x00" + good.encode()),
        text(good.encode() + b"\n\0\0\0\0"),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: None,
    ]
    return made


def logs(good: Path, chance: random.Random) -> list[Make]:
    """Inspect logs: cut off, other bytes, entries of other types."""
    data = good.read_bytes()
    made: list[Make] = [text(data[:cut]) for cut in chance.sample(range(1, len(data)), 16)]
    with zipfile.ZipFile(good) as archive:
        members = {one: archive.read(one) for one in archive.namelist()}
    header = next(one for one in members if one.endswith("header.json"))
    sample = next(one for one in members if one.startswith("samples/"))

    def packed(changes: Mapping[str, bytes | None]) -> Make:
        def write(path: Path) -> None:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, body in {**members, **changes}.items():
                    if body is not None:
                        archive.writestr(name, body)

        return write

    def put(name: str, *keys: str, value: Any) -> Make:
        row = json.loads(members[name])
        inner = row
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        return packed({name: json.dumps(row).encode()})

    made += [packed({header: body}) for body in (b"", b"{", b"5", b"[]", b"\xff")]
    made += [packed({sample: body}) for body in (b"", b"{", b"5", b"[" * 4000, b"\xff", members[sample][:-40])]
    for keys in (("status",), ("eval",), ("eval", "model"), ("eval", "config"), ("version",)):
        made += [put(header, *keys, value=value) for value in (5, [], "no-such") if (keys[-1], str(value)) not in FINE]
    for keys in (("epoch",), ("messages",), ("scores", "safety"), ("input",), ("output",)):
        made += [put(sample, *keys, value=value) for value in (-5.5, {"a": []}) if (keys[-1], str(value)) not in FINE]
    made += [text(b""), text(b"PK\x05\x06" + bytes(18)), text(b"x" * 300), lambda path: path.mkdir()]
    return [*made, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: None]


FINE = {("model", "no-such"), ("version", "5"), ("output", "{'a': []}")}  # what may stand there


def models(good: Path) -> list[Make]:
    """Directories of weights of which something is missing, broken or another's."""

    def spoiled(change: Callable[[Path], object]) -> Make:
        def write(path: Path) -> None:
            shutil.copytree(good, path)
            change(path)

        return write

    def config(**changes: Any) -> Make:
        def change(path: Path) -> None:
            row = json.loads((path / "config.json").read_text())
            (path / "config.json").write_text(json.dumps(row | changes))

        return spoiled(change)

    def tensors(change: Callable[[dict[str, Any]], Any]) -> Make:
        def write(path: Path) -> None:
            from safetensors.torch import load_file, save_file

            found = load_file(path / "model.safetensors")
            save_file(change(found), path / "model.safetensors")

        return spoiled(write)

    def body(change: Callable[[bytes], bytes]) -> Make:
        return spoiled(
            lambda path: (path / "model.safetensors").write_bytes(change((path / "model.safetensors").read_bytes()))
        )

    def first(found: dict[str, Any], part: str = "norm") -> str:
        return sorted(one for one in found if part in one)[0]

    made = [
        spoiled(lambda path, name=name: (path / name).unlink())
        for name in ("config.json", "model.safetensors", "tokenizer.json")
    ]
    made += [
        spoiled(lambda path, name=name, said=said: (path / name).write_bytes(said))
        for name in ("config.json", "tokenizer.json", "model.safetensors", "tokenizer_config.json")
        for said in (b"", b"{", b"[]", b"\xff\0")
    ]
    made += [body(lambda data, cut=cut: data[: len(data) * cut // 10]) for cut in (1, 5, 9)]
    made += [
        body(lambda data: struct.pack("<Q", 1 << 60) + data[8:]),
        body(lambda data: struct.pack("<Q", 3) + data[8:]),
        body(lambda data: data + b"\0" * 64),
        body(lambda data: data[:8] + data[8:].replace(b"F32", b"F99", 1)),
        tensors(lambda found: {key: value for key, value in found.items() if key != first(found)}),
        tensors(lambda found: {key.replace("norm", "nrom", 1): value for key, value in found.items()}),
        tensors(lambda found: {f"base_model.model.{key}": value for key, value in found.items()}),
        tensors(lambda found: {**found, first(found): found[first(found)][:-1].clone()}),
        tensors(lambda found: {**found, first(found): found[first(found)].int()}),
        tensors(lambda found: {**found, first(found): found[first(found)] * float("nan")}),
        tensors(lambda found: {**found, "model.layers.9.more": found[first(found)].clone()}),
        tensors(lambda found: {first(found): found[first(found)]}),
        config(hidden_size=17),
        config(num_hidden_layers=9),
        config(num_attention_heads=0),
        config(vocab_size=3),
        config(model_type="nothing"),
        config(hidden_size="x"),
        config(auto_map={"AutoModelForCausalLM": "evil.Evil"}, model_type="evil", architectures=["Evil"]),
        spoiled(lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin")),
        spoiled(lambda path: ((path / "model.safetensors").unlink(), (path / "model.safetensors").mkdir())),
    ]
    return made


# --- commands ----------------------------------------------------------------------------------------------------

COMMANDS: Mapping[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "study": ((), "bad.toml", ("check", "bad.toml")),
    "rules": (("run",), "bad.toml", ("gate", "run", "--all", "--rules", "bad.toml", "--json")),
    "judges": (("run",), "bad.toml", ("judge", "run", "--with", "rules", "--judges", "bad.toml", "--quiet")),
    "traces": (
        ("rules.toml",),
        "bad.jsonl",
        ("watch", "--traces", "bad.jsonl", "--judge", "rules", "--judges", "rules.toml", "-o", "made", "--strict"),
    ),
    "logs": ((), "bad.eval", ("import", "bad.eval", "-o", "made", "--score", "safety=+safety[0,1]", "--quiet")),
    "models": (
        ("good", "study.toml"),
        "bad",
        ("gate", "--suite", "study.toml", "--parent", "good", "--child", "bad", "-o", "made", "--quiet"),
    ),
}


def prepare(shop: Shop, world: World, work: Path, names: Sequence[str]) -> None:
    """A good directory of weights, and proof that every command takes what is not spoiled."""
    if not any(name.startswith("input/") for name in names) or (world.path / "good").exists():
        return
    from builders.chat_samples import make_base
    from builders.watch_samples import chat_line

    from faults.placed import find_weights

    shutil.copytree(world.path / "run" / find_weights(world.path / "run", "S"), world.path / "good")
    make_base(world.path / "hub")
    chats = "".join(json.dumps(chat_line(number)) + "\n" for number in range(6))
    good = {"study": STUDY, "rules": GATE, "judges": RULES, "traces": chats}
    for kind, (needs, name, words) in COMMANDS.items():
        world.furnish(needs, work)
        if kind in good:
            (work / name).write_text(good[kind])
        elif kind == "logs":
            shutil.copyfile(world.path / "log.eval", work / name)
        else:
            shutil.copytree(world.path / "good", work / name)
        ended = shop.carry_out(words, work)
        assert ended.code in (0, 1, 3), (kind, ended.err)


def _make(world: World, kind: str, seed: int) -> list[Make]:
    chance = random.Random(f"{seed} {kind}")
    if kind == "models":
        return [*models(world.path / "good"), *models(world.path / "hub")]
    ways: Mapping[str, Callable[[], list[Make]]] = {
        "study": studies,
        "rules": rules,
        "judges": judges,
        "traces": lambda: traces(chance),
        "logs": lambda: logs(world.path / "log.eval", chance),
    }
    return ways[kind]()


def try_input(shop: Shop, world: World, work: Path, name: str, seed: int) -> Found:
    """One input by its name, such as ``input/study/12``."""
    _, kind, number = name.split("/")
    made = _make(world, kind, seed)
    order = list(range(len(made)))
    random.Random(f"{seed} order {kind}").shuffle(order)
    which = order[int(number) % len(made)]
    needs, file, words = COMMANDS[kind]
    world.furnish(needs, work)
    made[which](work / file)
    ended = shop.carry_out(words, work, seconds=20, bounded=True)
    where = f"number {which} of its kind"
    if ended.code is None:
        return Found(name, Kind.HANG, where)
    if ended.torn or ended.code < 0:
        return Found(name, Kind.TRACEBACK, f"{where}: exit {ended.code}: {ended.err[-500:]}")
    if ended.code in (0, 3):
        return Found(name, Kind.SILENT, f"{where}: taken: {ended.out[-200:]}{ended.err[-300:]}")
    if not ended.told:
        return Found(name, Kind.SILENT, f"{where}: exit {ended.code} without a word")
    return Found(name, Kind.TOLD, f"{where}: {ended.err[-250:].strip()}", placeless=file not in ended.err)
