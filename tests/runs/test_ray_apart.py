"""Nodes that see nothing of the run: it is hidden from them, and an audit hook names whoever tries to open it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders.own_files import chats, preferences
from builders.own_trainers import GOOD, WORDS, script
from builders.smoke_study import SMOKE, smoke_settings, write_toml

import holdfast as hf
from holdfast.study.study import load

pytest.importorskip("ray", reason="needs Ray (extra ray)")
pytestmark = [
    pytest.mark.full,  # a cluster of its own, in name spaces
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
CANARY = "sk-canary-5d41402abc4b2a76"
HOOK = """
import os, sys
hidden, told = {hidden!r}, {told!r}
def look(event, given):
    if event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "sqlite3.connect"):
        for one in given[:2]:
            if isinstance(one, (str, bytes)) and hidden in os.fsdecode(one):
                handle = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.write(handle, (event + " " + os.fsdecode(one) + "\\n").encode())
                os.close(handle)
sys.addaudithook(look)
"""


DRIVER = """
import json, sys
import holdfast as hf
from holdfast.study.study import load
if __name__ == "__main__":
    heard, (study, run, address) = [], sys.argv[1:]
    try:
        hf.run(load(study), run, engine="ray:" + address, listener=heard.append)
    except hf.HoldfastError as error:
        sys.exit(str(error))
    print(json.dumps({said.step.name: said.node for said in heard if said.node is not None}))
"""


def study_in(folder: Path, program: Path) -> Path:
    """A study that lies in a folder with files of its own: two stages learn from these, and one is by a program."""
    words = [WORDS[0], str(program), *WORDS[2:]]
    stages = {
        "C": {"method": "sft", "objective": "safety", "data": str(chats(folder / "chats.jsonl")), "epochs": 1},
        "P": {"objective": "safety", "data": str(preferences(folder / "pairs.jsonl")), "steps": 2},
        "T": {"method": "command", "command": words, "data": "pairs", "objective": "safety", "timeout": 60},
    }
    settings = smoke_settings()
    settings["stages"] |= stages
    settings |= {"doses": {}, "study": settings["study"] | {"lineages": [["S", "H"], ["C", "P"], ["T"]]}}
    return write_toml(settings, folder / "study.toml")


def carry_out(run: Path, address: str, study: Path = SMOKE) -> subprocess.CompletedProcess[str]:
    """A run whose driver is a process of its own: Ray's library reads its environment once."""
    words = [sys.executable, "-c", DRIVER, str(study), str(run), address]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The directory that is hidden from nodes, and the file in which the hook writes."""
    root = tmp_path_factory.mktemp("apart")
    (root / "hidden").mkdir()
    return root / "hidden", root / "tried.txt"


@pytest.fixture(scope="module")
def address(places: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head here, and two nodes that have nothing where the run is."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    hidden, told = places
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text(HOOK.format(hidden=str(hidden), told=str(told)))
    ray, port = str(Path(sys.executable).with_name("ray")), free_port()
    (site / "token").write_text("0123456789abcdef" * 4)
    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    patch.setenv("RAY_AUTH_MODE", "token")
    patch.setenv("RAY_AUTH_TOKEN_PATH", str(site / "token"))
    environment = dict(os.environ)
    address, started = f"127.0.0.1:{port}", []
    head = [ray, "start", "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", "--block"]
    own = environment | {"PYTHONPATH": f"{site}", "PROVIDER_KEY": CANARY}
    try:
        started.append(subprocess.Popen(head, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        for number, more in enumerate(["", """--resources='{"holdfast_command": 1}'"""]):
            time.sleep(4 if not number else 1)
            node = f"{ray} start --address={address} --num-cpus=1 --object-store-memory=100000000 --block {more}"
            script = f"mount -t tmpfs none '{hidden}' && exec {node}"
            words = ["unshare", "-rm", "sh", "-c", script]
            cache = {"HOLDFAST_NODE_CACHE": str(site / f"weights-{number}")}
            node_environment = own | cache
            started.append(
                subprocess.Popen(words, env=node_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
        time.sleep(6)
        yield address
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)
        patch.undo()


def test_nodes_that_see_nothing_of_the_run_make_the_same_run(
    address: str, places: tuple[Path, Path], base_cache: Path, tmp_path: Path
) -> None:
    hidden, told = places
    one = tmp_path / "one"
    program = script(tmp_path / "train.py", GOOD)  # which is on every node
    study = study_in(hidden, program)
    hf.run(load(study), one, workers=1)
    run = hidden / "run"
    done = carry_out(run, address, study)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (run / "analysis.json").read_bytes() == (one / "analysis.json").read_bytes()
    nodes = json.loads(done.stdout)
    assert any("· T ·" in name for name in nodes) and any("· C,P ·" in name for name in nodes)
    tried = set(told.read_text().splitlines()) if told.exists() else set()
    # One file is looked for, by which a node finds out whether it shares the run's weights.
    assert tried and all(line.startswith("open ") and "/carried/nonce-" in line for line in tried)
    assert not list((run / "weights").glob(".part-*"))
    logs = [path for path in Path("/tmp/ray/session_latest/logs").rglob("*") if path.is_file()]
    assert logs and not [path for path in logs if CANARY.encode() in path.read_bytes()]
    assert not [path for path in run.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def test_a_cluster_that_wants_its_token_is_told(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for mode, token in (("token", "0" * 64), ("disabled", "")):
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        done = carry_out(tmp_path / "run", address)
        told = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 1 and f"ray:{address}: the cluster wants its token; set RAY_AUTH_MODE=token" in told


def test_a_directory_that_is_read_only_on_one_node_is_told_before_the_start(
    address: str, places: tuple[Path, Path], tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    ray = Path(sys.executable).with_name("ray")
    node = f"{ray} start --address={address} --num-cpus=1 --object-store-memory=100000000 --block"
    script = f"mount --bind '{shared}' '{shared}' && mount -o remount,bind,ro '{shared}' && exec {node}"
    words = ["unshare", "-rm", "sh", "-c", script]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(8)
            done = carry_out(shared / "run", address)
            told = done.stderr.strip().splitlines()[-1]
            assert done.returncode == 1 and "can be read and not written on the node" in told
        finally:
            process.terminate()
