"""A stage that a program of the user's own carries out: what it is given, what is taken over, what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders.own_trainers import GOOD, HEAD, WORDS, script
from builders.smoke_study import smoke_settings, write_toml

from holdfast.cli.main import main
from holdfast.records.errors import HoldfastError, StepError, StudyError
from holdfast.runs.build import build
from holdfast.runs.methods.command.look import check_commands
from holdfast.runs.methods.command.plan import CommandSettings
from holdfast.runs.methods.command.train import train_stage
from holdfast.runs.methods.command.trainer import (
    HEAD_BYTES,
    TAIL_BYTES,
    OutputLog,
    environment,
    run_program,
    work_directory,
)
from holdfast.runs.run import run
from holdfast.store import Store
from holdfast.study.study import Study, load


def study(program: Path, *, lineages: Any = (("T",),), stages: Any = None, doses: Any = None, **keys: Any) -> Any:
    """The small study, smaller still, with a stage T by a program."""
    settings = smoke_settings()
    words = [WORDS[0], str(program), *WORDS[2:]]
    stage = {"method": "command", "command": words, "objective": "safety", "timeout": 60, **keys}
    settings["stages"] = {"T": {key: one for key, one in stage.items() if one is not None}, **(stages or {})}
    settings["study"] |= {"lineages": [list(one) for one in lineages], "train_seeds": [0], "draws": 100}
    settings["model"] = {**settings.get("model", {}), "base_seeds": [0]}
    settings["suite"] |= {"train_cases": 8, "test_cases": 4}
    settings["rollouts"] |= {"per_train_case": 4, "per_test_case": 1}
    return settings | {"doses": doses or {}, "axes": {}}


@pytest.fixture
def carry(base_cache: Path, tmp_path: Path) -> Callable[..., Path]:
    """Carries a study with a program's text out, or goes on with it; the run's directory."""

    def carry_out(body: str, **keys: Any) -> Path:
        settings = study(script(tmp_path / "train.py", body), **keys)
        run(load(write_toml(settings, tmp_path / "study.toml")), tmp_path / "run", workers=1)
        return tmp_path / "run"

    return carry_out


def trained(run_path: Path) -> dict[str, Any]:
    """What stages by a program say of themselves, by lineage."""
    with Store(run_path) as store:
        steps = [one for one in store.log.steps().values() if one.kind == "train" and " · " in one.name]
        return {one.name.split(" · ")[1]: {**one.result, "status": one.status} for one in steps}


def adopted(run_path: Path) -> list[Any]:
    with Store(run_path) as store:
        return [one for one in store.checkpoints() if one.stages]


def test_a_program_is_given_model_pairs_and_seed_and_its_model_is_taken_over(
    carry: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "very-secret-value")
    monkeypatch.setenv("OPENAI_API_KEY", "not-handed-on")
    monkeypatch.setenv("MODE", "odd")
    body = f"""
    seen = {{"argv": sys.argv[1:], "env": dict(os.environ), "model": sorted(p.name for p in model.iterdir())}}
    seen["rows"] = [json.loads(line) for line in open(data)]
    Path({str(tmp_path / "seen.json")!r}).write_text(json.dumps(seen))
    print("the key is", os.environ["WANDB_API_KEY"], flush=True)
    save(change=nudge)
    (output / "training_args.bin").write_bytes(b"pickle")
    """
    path = carry(body, env=["WANDB_API_KEY"], steps=7)
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen["argv"][3] == "0" and {"config.json", "model.safetensors", "tokenizer.json"} <= set(seen["model"])
    assert {frozenset(row) for row in seen["rows"]} == {frozenset(("prompt", "chosen", "rejected", "tools"))}
    assert seen["env"]["WANDB_API_KEY"] == "very-secret-value"
    assert not {"OPENAI_API_KEY", "MODE"} & set(seen["env"])
    found = trained(path)["T"]
    assert found["status"] == "done" and found["rows"] == len(seen["rows"]) > 3
    assert found["programs"].keys() == {str(tmp_path / "train.py")} and found["variables"] == ["WANDB_API_KEY"]
    (checkpoint,) = adopted(path)
    with Store(path) as store:
        place = store.weights(checkpoint)
        pairs = [name for name, one in store.log.steps().items() if one.kind == "pair"]
    assert not (place / "training_args.bin").exists()
    assert (checkpoint.stages[0].steps, checkpoint.stages[0].method) == (7, "command")
    assert [checkpoint.stages[0].data] == pairs
    (log,) = (path / "logs").glob("*.trainer.jsonl")
    assert [json.loads(line)["line"] for line in log.read_text().splitlines()] == ["the key is [redacted]"]
    assert not list((path / "weights").glob(".part-*"))


def pid_in(path: Path) -> int:
    return int(path.read_text())


def is_gone(process: int, seconds: float = 5.0) -> bool:
    """Whether a process has ended, or ends soon."""
    end = time.monotonic() + seconds
    while True:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.02)


STAYS = """
if os.fork() == 0:
    os.setsid()
    Path(TMP + "/child").write_text(str(os.getpid()))
    time.sleep(600)
while not Path(TMP + "/child").exists() or not Path(TMP + "/child").read_text():
    time.sleep(0.01)
"""
WEIGHTS = "target = output / 'model.safetensors'\nshutil.copytree(model, output, dirs_exist_ok=True)\n"
CONFIG = "config = json.loads((output / 'config.json').read_text())\n"
MOVED = f"{WEIGHTS}raw = bytearray(target.read_bytes())\nraw[-4:] = bytes(4)\ntarget.write_bytes(raw)\n"
WRITE_CONFIG = "(output / 'config.json').write_text(json.dumps(config))\n"
# What a program does → the words of the line. Nothing of it is kept, and the next takes its turn in the same run.
BAD: dict[str, tuple[str, str]] = {
    "an error": (
        "print('first\\nsec\\x1b[2Jond', flush=True)\nsys.exit('boom: the reason')",
        "ended with exit code 1; mend what it says, then repeat the command to retry; its last lines: first |"
        " sec [2Jond | boom: the reason",
    ),
    "nothing written": ("pass", "{output}: nothing was written there"),
    "the output removed": ("output.rmdir()", "{output}: nothing was written there"),
    "a killed program": ("os.kill(os.getpid(), 9)", "killed by signal 9 (SIGKILL)…it wrote no line"),
    "pickles": (
        "shutil.copytree(model, output, dirs_exist_ok=True)\n(output / 'model.safetensors').unlink()\n"
        "(output / 'pytorch_model.bin').write_bytes(b'x')",
        "refused: {output}: pickle weights (pytorch_model.bin) are not loaded; convert to safetensors",
    ),
    "no weights": (
        "shutil.copy(model / 'config.json', output)",
        "refused: {output}: holds no weights in safetensors",
    ),
    "a torn file": (f"{WEIGHTS}target.write_bytes(target.read_bytes()[:-9])", "model.safetensors: is damaged"),
    "values that are no numbers": (
        f"{WEIGHTS}raw = bytearray(target.read_bytes())\nraw[-4:] = b'\\x00\\x00\\xc0\\x7f'\ntarget.write_bytes(raw)",
        "has values that are not finite; save a model that has learnt with a smaller rate",
    ),
    "a link out of it": (
        f"{WEIGHTS}target.unlink()\ntarget.symlink_to(TMP + '/elsewhere.safetensors')",
        "{output}/model.safetensors: is a link that leads out of {output}",
    ),
    "a link deep below": (
        f"{WEIGHTS}(output / 'logs').mkdir()\n(output / 'logs' / 'x').symlink_to('/etc')",
        "{output}/logs/x: is a link that leads out of {output}",
    ),
    "the output as a link": (
        "output.rmdir()\noutput.symlink_to('/etc')",
        "{output}: is a link that leads out of {output}",
    ),
    "a pipe": (f"{WEIGHTS}target.unlink()\nos.mkfifo(target)", "model.safetensors: is no regular file"),
    "another kind": (
        f"{WEIGHTS}{CONFIG}config['model_type'] = 'qwen2'\n{WRITE_CONFIG}",
        "model_type is 'qwen2', and that of {model} is 'llama': another architecture",
    ),
    "another size": (
        f"{WEIGHTS}{CONFIG}config['num_attention_heads'] *= 2\n{WRITE_CONFIG}",
        "num_attention_heads is",
    ),
    "code of its own": (
        f"{WEIGHTS}{CONFIG}config['model_type'] = 'mine'\nconfig['auto_map'] = {{'AutoConfig': 'x.Y'}}\n{WRITE_CONFIG}"
        "(output / 'x.py').write_text('import os; os.abort()')",
        "asks to run code of its own (auto_map)",
    ),
    "a model that is trained where it lies": (
        f"{WEIGHTS}(model / 'config.json').write_text('{{}}')",
        "the program has changed {model}, by which its own is checked",
    ),
    "a model that is gone": ("shutil.rmtree(model)", "the program has changed {model}, by which its own is checked"),
    "nothing trained": (WEIGHTS, "{output}: holds the very weights of {model}: nothing was trained; let it save"),
    "a model one level down": ("shutil.copytree(model, output / 'last')", "say where the model is: keep = 'last'"),
    "settings without end": (
        f"{MOVED}os.truncate(output / 'config.json', 1 << 36)",
        "{output}/config.json: has more than 64 MiB",
    ),
    "other positions": (
        f"{MOVED}{CONFIG}config['rope_parameters']['rope_theta'] = 5.0\n{WRITE_CONFIG}",
        "{output}/config.json: rope_parameters is…leave the settings of a tiny model as those of {model}",
    ),
    "a key": (
        f"{MOVED}{CONFIG}config['token'] = 'abc-secret-xyz'\n{WRITE_CONFIG}",
        "{output}/config.json: holds the value of the variable SOME_TOKEN; let the program leave it out",
    ),
    "a killed guard": (
        "os.kill(os.getppid(), 9)\ntime.sleep(600)",
        "was ended with the process that watches over it; repeat the command to retry",
    ),
    "a stack": (f"{WEIGHTS}(output / 'stack.json').write_text('{{}}')", "stack.json: is a file of holdfast's own"),
    "a hang with a child": (f"{STAYS}time.sleep(600)", "ended at its timeout of 6 s; raise stages.T.timeout"),
    "a child that stays": (f"{STAYS}sys.exit(3)", "ended with exit code 3"),
    "a long log": (
        "line = 'x' * 99 + '\\n'\nfor _ in range(120_000): sys.stdout.write(line)\nprint('the end')\nsys.exit(4)",
        "ended with exit code 4…| the end (all of it in",
    ),
}


def test_what_goes_wrong_is_one_line_and_the_run_goes_on_when_the_cause_is_gone(
    base_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "abc-secret-xyz")
    program, path = tmp_path / "train.py", tmp_path / "run"
    settings = study(script(program, ""))
    (tmp_path / "elsewhere.safetensors").write_bytes(b"x")
    made = load(write_toml(settings, tmp_path / "study.toml"))
    hasty = load(tmp_path / "study.toml", changes=["stages.T.timeout=6"])
    wrong = {}
    for name, (body, words) in BAD.items():
        program.write_text(HEAD + f"TMP = {str(tmp_path)!r}\n" + body)
        with pytest.raises(StepError) as caught:
            run(hasty if "timeout" in words else made, path, workers=1)
        said = str(caught.value)
        found = all(part in said for part in words.split("…")) and "\n" not in said and "stages.T" in said
        if not found or adopted(path) or any(any(left.iterdir()) for left in (path / "weights").glob(".part-*/work")):
            wrong[name] = said
        if "os.fork" in body:
            assert is_gone(pid_in(tmp_path / "child")), name
            (tmp_path / "child").unlink()
        (log,) = (path / "weights").glob(".part-*/trainer.jsonl")
        assert log.stat().st_size < 8 << 20, name
    assert wrong == {}
    # More time is no other study, and what was done is not done again.
    before = {name: one.seconds for name, one in read_steps(path).items() if one.status == "done"}
    program.write_text(HEAD + GOOD)
    settings["stages"]["T"] |= {"timeout": 50, "env": ["PATH"]}
    run(load(write_toml(settings, tmp_path / "study.toml")), path, workers=1)
    assert trained(path)["T"]["status"] == "done" and len(adopted(path)) == 1
    assert before.items() <= {name: one.seconds for name, one in read_steps(path).items()}.items()


def read_steps(run_path: Path) -> Any:
    with Store(run_path) as store:
        return store.log.steps()


# Runs a program as a stage does, in a process that is to be killed.
WATCHED = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
from holdfast.runs.methods.command.trainer import OutputLog, environment, run_program, work_directory
place = Path(sys.argv[1])
with work_directory(place / "work") as held:
    run_program(sys.argv[2:], environment([]), 600, OutputLog(place / "log"), held)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_the_program_and_its_children_end_with_holdfast(number: int, tmp_path: Path) -> None:
    """Also a child of another session; and whoever begins the step again waits until they have ended."""
    program = tmp_path / "train.py"
    begun = "Path(TMP + '/program').write_text(str(os.getpid()))\ntime.sleep(600)"
    program.write_text(f"import os, time\nfrom pathlib import Path\nTMP = {str(tmp_path)!r}\n{STAYS}{begun}")
    watched = [sys.executable, "-c", WATCHED, str(tmp_path), sys.executable, "-S", str(program)]
    holdfast = subprocess.Popen(watched, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_for(tmp_path / "program", holdfast)
    finally:
        holdfast.send_signal(number)
    with work_directory(tmp_path / "work"):
        assert is_gone(pid_in(tmp_path / "program"), 0) and is_gone(pid_in(tmp_path / "child"), 0)
    holdfast.wait()


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Until a process has written its file."""
    while not path.exists() or not path.read_text():
        assert process.poll() is None
        time.sleep(0.02)


@pytest.mark.full
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_step_that_was_killed_begins_again(workers: str, base_cache: Path, tmp_path: Path) -> None:
    body = f"""
    if Path({str(tmp_path / "second")!r}).exists():
        assert not list(output.iterdir())
        save(change=nudge)
        sys.exit()
    (output / "half").write_text("of a model")
    Path({str(tmp_path / "program")!r}).write_text(str(os.getpid()))
    time.sleep(600)
    """
    place = write_toml(study(script(tmp_path / "train.py", body)), tmp_path / "study.toml")
    command = [sys.executable, "-m", "holdfast", "run", str(place), "-o", str(tmp_path / "run"), "--workers", workers]
    holdfast = subprocess.Popen(command, start_new_session=True)
    try:
        wait_for(tmp_path / "program", holdfast)
    finally:
        holdfast.send_signal(signal.SIGKILL)
        holdfast.wait()
    (tmp_path / "second").touch()
    assert subprocess.run(command, check=False).returncode == 0
    assert is_gone(pid_in(tmp_path / "program"), 0) and len(adopted(tmp_path / "run")) == 1


def test_check_and_plan_show_the_command_and_carry_nothing_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "hidden-value")
    program = script(tmp_path / "train it.py", f"Path({str(tmp_path / 'done')!r}).touch()")
    place = write_toml(study(program, env=["MY_TOKEN"]), tmp_path / "study.toml")
    line = f"'{{python}}' '{program}' '{{model}}' '{{data}}' '{{output}}' '{{seed}}'"
    assert main(["check", str(place)]) == 0
    said = capsys.readouterr().out
    assert f"stages.T carries out, for at most 60 s: {line} (given the variables MY_TOKEN)\n" in said
    assert main(["plan", str(place)]) == 0
    assert f"stages.T carries out: {line}\n" in capsys.readouterr().out
    assert main(["plan", str(place), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["commands"] == {"T": line}
    assert not (tmp_path / "done").exists()


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"command": ["no-such-program", "{output}"]}, "begins with 'no-such-program', and no such program is here"),
        ({"command": ["{python}", "nowhere.py", "{output}"]}, "names the script 'nowhere.py', which is not there"),
        (
            {"command": ["{python}", "-u", "nowhere.py", "{output}"]},
            "names the script 'nowhere.py', which is not there",
        ),
        ({"command": ["/", "{output}"]}, "begins with '/', which is a directory; give the path of the program"),
        (
            {"command": [__file__, "{output}"]},
            "a file that may not be executed; name the program that reads it",
        ),
        ({"env": ["NO_SUCH_VARIABLE"]}, "stages.T.env names NO_SUCH_VARIABLE, which the environment does not have"),
    ],
)
def test_what_a_command_needs_is_looked_for_before_anything_is_spent(
    keys: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_toml(study(script(tmp_path / "train.py", ""), **keys), tmp_path / "study.toml")
    for command in ("check", "run"):
        assert main([command, str(place), *(["-o", str(tmp_path / "run")] if command == "run" else [])]) == 2
        said = capsys.readouterr().err.splitlines()
        assert words in said[-1] and not (tmp_path / "run").exists()


def test_a_command_that_no_file_of_the_user_names_is_not_carried_out(tmp_path: Path) -> None:
    program = script(tmp_path / "train.py", f"Path({str(tmp_path / 'done')!r}).touch()")
    made = Study.model_validate(study(program))
    with pytest.raises(StudyError, match=r"stages.T.command is not carried out: .* and a run's word is no reason to"):
        run(made, tmp_path / "run", workers=1)
    assert not (tmp_path / "run").exists() and not (tmp_path / "done").exists()
    with pytest.raises(StepError, match="is not carried out"):  # nor where somebody has left that out
        carry_out_alone(made, tmp_path)
    assert not (tmp_path / "done").exists()
    check_commands(made, permitted=True)
    with pytest.raises(HoldfastError, match="checkpoint"):  # it is let through, to a run that holds nothing
        carry_out_alone(made, tmp_path)


def carry_out_alone(made: Study, path: Path) -> None:
    """The step of the stage T in an empty run."""
    step = next(one for one in build(made).steps if isinstance(one.settings, CommandSettings))
    assert isinstance(step.settings, CommandSettings)
    (path / "scratch").mkdir(exist_ok=True)
    with Store.open_or_create(path / "empty") as store:
        train_stage(step, step.settings, store, path / "scratch", lambda _: None)


def test_doses_episodes_and_a_file(carry: Callable[..., Path], tmp_path: Path) -> None:
    """Every dose is where ``keep`` says; demonstrations and trajectories are rows of messages, a file is as it is."""
    (tmp_path / "own.txt").write_text("mine")
    body = f"""
    with open({str(tmp_path / "seen")!r}, "a") as seen:
        text = open(data).read()
        json.dump([data, text if text == "mine" else [sorted(json.loads(x)) for x in text.splitlines()]], seen)
        seen.write("\\n")
    for step in (3, 6):
        def change(tensors):
            nudge(tensors)
            tensors[sorted(tensors)[1]] += step * 1e-3
        save(target=output / f"checkpoint-{{step}}", change=change)
    (output / "other").mkdir()
    """
    common = {"method": "command", "command": [*WORDS[:1], str(tmp_path / "train.py"), *WORDS[2:]], "timeout": 60}
    common |= {"steps": 3, "keep": "checkpoint-{steps}"}
    stages = {
        "R": {**common, "data": "trajectories", "objective": "safety", "at_least": 1.0},
        "F": {**common, "data": str(tmp_path / "own.txt")},
    }
    keys: Any = {"steps": 3, "keep": "checkpoint-{steps}", "data": "demonstrations", "count": 30, "objective": None}
    path = carry(body, lineages=[["T"], ["R"], ["T", "F"]], stages=stages, doses={"T": [1, 2]}, **keys)
    found = trained(path)
    assert [one["steps"] for one in found["T"]["doses"]] == [3, 6]
    assert found["T"]["rows"] + found["T"]["left_out"]["opens as a held-out case does"] == 30
    assert found["R"]["rows"] + sum(found["R"]["left_out"].values()) == 8 * 4
    assert found["T,F"]["rows"] is None
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    assert {tuple(row) for _, rows in seen[:2] for row in rows} == {("messages", "tools")}
    assert seen[2] == [str(tmp_path / "own.txt"), "mine"]
    assert len({one.digest for one in adopted(path)}) == 3  # R and dose 1 of T are moved alike
    by_name = {(one.lineage, one.axes["dose"]): one.stages[-1] for one in adopted(path)}
    assert by_name[("T",), 2].steps == 6 and by_name[("T",), 1].data == ""
    (tmp_path / "own.txt").write_text("other")
    with pytest.raises(StudyError, match=r"was made by a different study: stages\.F\.digest"):
        run(load(tmp_path / "study.toml"), path, workers=1)


def test_two_doses_are_two_models(carry: Callable[..., Path], tmp_path: Path) -> None:
    body = "home = output\nfor step in (3, 6):\n    output = home / f'checkpoint-{step}'\n"
    keys: Any = {"steps": 3, "keep": "checkpoint-{steps}", "data": "demonstrations", "count": 30, "objective": None}
    with pytest.raises(StepError, match="the doses 1 and 2 are one model; let the program save each"):
        carry(body + textwrap.indent(MOVED, "    "), doses={"T": [1, 2]}, **keys)
    assert not adopted(tmp_path / "run")


LORA = """
config = json.loads((model / "config.json").read_text())
from safetensors.torch import load_file, save_file
import torch
torch.manual_seed(int(seed))
tensors = {}
for name, weight in load_file(model / "model.safetensors").items():
    if name.endswith("_proj.weight"):
        start = "base_model.model." + name.removesuffix(".weight")
        tensors[start + ".lora_A.weight"] = torch.randn(2, weight.shape[1]) * 0.1
        tensors[start + ".lora_B.weight"] = torch.randn(weight.shape[0], 2) * 0.1
save_file(tensors, output / "adapter_model.safetensors")
targets = sorted({name.split(".")[-3] for name in tensors})
told = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": BASE, "r": 2, "lora_alpha": 4}
(output / "adapter_config.json").write_text(json.dumps({**told, "target_modules": targets}))
(output / "README.md").write_text("an adapter")
"""


@pytest.mark.full
def test_an_adapter_is_merged_into_the_model_that_was_given(base_cache: Path, tmp_path: Path) -> None:
    """Of a tiny base and of a Qwen2; nothing refers to what was lent, and the next stage of ours goes on from it."""
    import torch
    from safetensors.torch import load_file

    program = tmp_path / "train.py"
    settings = study(program, lineages=[["T"], ["T", "S"]], stages={"S": {"objective": "safety", "steps": 2}})
    settings["models"] = {"q": {"kind": "random", "hidden": 32, "layers": 2, "heads": 2, "key_value_heads": 1}}
    settings["models"]["q"] |= {"ffn": 48, "vocabulary": 400, "max_positions": 4096}
    settings["model"] |= {"bases": ["tiny", "q"]}
    settings["stages"]["T"] |= {"data": "demonstrations", "count": 30}
    settings["stages"]["S"] |= {"data": str(pairs_file(tmp_path / "pairs.jsonl"))}
    place = write_toml(settings, tmp_path / "study.toml")
    script(program, "BASE = '/nowhere/model'\n" + LORA)
    with pytest.raises(StepError, match=r"its base '/nowhere/model' \(base_model_name_or_path\) is not here"):
        run(load(place), tmp_path / "run", workers=1)
    script(program, "BASE = str(model)\n" + LORA)
    run(load(place), tmp_path / "run", workers=1)
    with Store(tmp_path / "run") as store:
        for base in ("tiny-0", "q-0"):
            of = {one.lineage: store.weights(one) for one in store.checkpoints() if one.base == base}
            before, after = (load_file(of[name] / "model.safetensors") for name in ((), ("T",)))
            moved = {name for name in before if not torch.equal(before[name], after[name])}
            assert moved == {name for name in before if name.endswith("_proj.weight")}
            assert not (of["T",] / "adapter_config.json").exists()
            assert str(tmp_path) not in "".join(path.read_text() for path in of["T",].glob("*.json"))


def pairs_file(path: Path) -> Path:
    """A file of pairs of answers, in words that a tiny model has."""
    said = {"chosen": "already done", "rejected": "no such object"}
    rows = [
        {
            "prompt": [{"role": "user", "content": f"file {n}"}],
            **{side: [{"role": "assistant", "content": text}] for side, text in said.items()},
        }
        for n in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_program_that_cannot_be_carried_out_says_why(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program")
    for number, (program, words) in enumerate({"/nowhere/x": "No such file", str(plain): "Permission denied"}.items()):
        log = OutputLog(tmp_path / f"log-{number}")
        with work_directory(tmp_path / "work") as held:
            ended = run_program([program, "x"], environment([]), 5, log, held)
        log.close()
        assert ended.code is None and words in str(ended.failed)


def test_a_guard_that_is_stopped_does_not_stop_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.runs.methods.command.trainer._END_SECONDS", 0.5)
    body = f"{STAYS}Path(TMP + '/program').write_text(str(os.getpid()))\nos.kill(os.getppid(), 19)\ntime.sleep(600)"
    program = tmp_path / "stop.py"
    program.write_text(f"import os, time\nfrom pathlib import Path\nTMP = {str(tmp_path)!r}\n{body}")
    log = OutputLog(tmp_path / "log")
    with work_directory(tmp_path / "work") as held:
        ended = run_program([sys.executable, "-S", str(program)], environment([]), 1.0, log, held)
    log.close()
    assert ended.late and is_gone(pid_in(tmp_path / "program")) and is_gone(pid_in(tmp_path / "child"))


def test_a_log_keeps_its_beginning_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one line without an end, and of a key that two pieces share."""
    monkeypatch.setenv("SOME_TOKEN", "abc-secret-xyz")
    log = OutputLog(tmp_path / "log")
    log.feed(b"begin\nthe key is abc-sec")
    log.feed(b"ret-xyz\n")
    for _ in range(200):
        log.feed(b"y" * (1 << 16))
    log.feed(b"\nthe end\rlast abc-secret-xyz")
    log.close()
    lines = [json.loads(line)["line"] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines[:2] == ["begin", "the key is [redacted]"] and lines[-2:] == ["the end", "last [redacted]"]
    assert (tmp_path / "log").stat().st_size < HEAD_BYTES + 4 * TAIL_BYTES
    assert log.left_out > 0 and any("bytes are not kept" in line for line in lines)
    assert log.last_lines().endswith("the end | last [redacted]")
