"""Tools that a model plays never touch the host: an audit hook sees every file, process and socket of an episode."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from builders.places import data_file

PROBE = r"""
import json, os, socket, subprocess, sys
from holdfast.models import Conversation
from holdfast.records import Message, ToolCall
from holdfast.rollout.episode import Limits, roll_out
from holdfast.suites.toolemu.cases import load_cases
from holdfast.models.fakes import ScriptedModel
from holdfast.rollout.worlds.emulated import EmulatedWorld

cases_path, toolkits_path, victim = sys.argv[1:]
cases = load_cases(cases_path, toolkits_path)
case = next(one for one in cases if any(tool.name == "TerminalExecute" for tool in one.tools))
commands = [
    "rm -rf /",
    f"rm -f {victim}",
    f"echo gone > {victim}",
    "curl http://127.0.0.1:9/ | sh",
    ":(){ :|:& };:",
    f"__import__('os').remove({victim!r})",
    "$(touch /tmp/holdfast-was-here)",
]
calls = tuple(ToolCall(name="TerminalExecute", arguments={"command": one}) for one in commands)
bad = (ToolCall(name="TerminalExecute", arguments={"_raw": "rm -rf /"}), ToolCall(name="os.system", arguments={}))

def agent(conversation: Conversation):
    if any(one.role == "assistant" for one in conversation.messages):
        return "Done."
    return Message(role="assistant", content="", tool_calls=(*calls, *bad))

replies = 0

def emulator(conversation: Conversation):
    global replies
    replies += 1
    if replies == 2:
        return "no JSON at all"
    result = {"output": f"removed {victim}", "exit_code": 0}
    return json.dumps({"reasoning": "", "result": result, "exception": None, "state_notes": "all is gone"})

# Whatever reads, writes, starts, connects, loads or executes; the interpreter's own bookkeeping (object.*, sys.*
# and the like) leaves nothing on the host.
WATCHED = ("open", "os.", "subprocess.", "socket.", "shutil.", "pty.", "ctypes.", "exec", "compile", "import",
           "tempfile.", "mmap.", "fcntl.", "sqlite3.", "urllib.", "http.", "ftplib.", "smtplib.", "signal.",
           "webbrowser.", "glob.", "pathlib.", "winreg.", "syslog.", "resource.", "code.", "pickle.")
seen, watching = [], False

def hook(event, arguments):
    if watching and event.startswith(WATCHED):
        seen.append([event, repr(arguments)[:200]])

def play(world):
    speakers = {"agent": ScriptedModel(agent), "emulator": ScriptedModel(emulator)}
    limits = Limits(max_turns=4, max_tokens=100, temperature=0.0)
    return roll_out(speakers, world, [(case, 0)], checkpoint_id="c", rollout_seed=0, limits=limits)[0]

class Leaky:
    # A world that acts on the host when it is called: what the hook must catch.
    def __init__(self, act):
        self.act = act

    def start(self, case, **options):
        session, act = EmulatedWorld().start(case, **options), self.act
        class Session:
            snapshot = session.snapshot
            def answer(self, call):
                act()
                return session.answer(call)
        return Session()

def connect():
    with socket.socket() as one:
        one.connect_ex(("127.0.0.1", 9))

LEAKS = {
    "os.remove": lambda: os.path.exists(victim) and os.remove(victim),
    "open": lambda: open(victim, "w").close(),
    "subprocess.Popen": lambda: subprocess.run(["true"], check=True),
    "os.system": lambda: os.system("true"),
    "socket.connect": connect,
}

def watch(world):
    global replies, seen, watching
    replies, seen, watching = 0, [], True
    made = play(world)
    watching = False
    return made

# Modules that are imported on first use are no effect of a tool: a first episode brings them in.
play(EmulatedWorld())
sys.addaudithook(hook)
made = watch(EmulatedWorld())
heard = [one.content for one in made.messages if one.role == "tool"]
found = {"seen": seen, "ending": made.ending, "calls": made.calls, "invalid": made.invalid_calls,
         "heard": heard, "replies": replies, "victim": open(victim).read(), "leaks": {}}
for event, act in LEAKS.items():
    watch(Leaky(act))
    found["leaks"][event] = sorted({name for name, _ in seen})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an audit hook saw of episodes in a process of its own."""
    folder = tmp_path_factory.mktemp("host")
    victim = folder / "victim.txt"
    victim.write_text("precious")
    paths = [str(data_file(f"toolemu-{name}.json")) for name in ("cases", "toolkits")]
    command = [sys.executable, "-c", PROBE, *paths, str(victim)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found: dict[str, Any] = json.loads(shown.stdout)
    return found


def test_an_emulated_episode_touches_nothing_of_the_host(watched: dict[str, Any]) -> None:
    assert watched["seen"] == []
    assert (watched["ending"], watched["calls"], watched["invalid"]) == ("finished", 7, 2)
    assert watched["replies"] == 8, "every command reached the emulator, one of them twice"
    assert all("removed" in text for text in watched["heard"][:7]), "the agent is told that it worked"
    assert watched["victim"] == "precious"


@pytest.mark.parametrize("event", ["os.remove", "open", "subprocess.Popen", "os.system", "socket.connect"])
def test_the_hook_catches_a_world_that_acts(watched: dict[str, Any], event: str) -> None:
    assert event in watched["leaks"][event]
