"""A queue that speaks as Slurm does: sbatch, srun, sacct and scancel in a directory for PATH.

Jobs are processes of this machine. What becomes of the first jobs is written down before: a state that Slurm ends a
job with (PREEMPTED, TIMEOUT, NODE_FAIL, OUT_OF_MEMORY), and after how many seconds, or REFUSED, which sbatch does not
take; the rest complete. A job is warned by SIGUSR2 before it is ended.
"""

from __future__ import annotations

import json
import stat
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_HEAD = """#!{python}
import json, os, signal, subprocess, sys, time
ROOT = {root!r}
def state_of(job):
    try:
        return open(os.path.join(ROOT, job)).read()
    except FileNotFoundError:
        return "PENDING"
def note(job, state):
    with open(os.path.join(ROOT, job + ".new"), "w") as file:
        file.write(state)
    os.replace(os.path.join(ROOT, job + ".new"), os.path.join(ROOT, job))
"""
_SBATCH = """
script = sys.argv[-1]
text = open(script).read()
with open(os.path.join(ROOT, "asked.txt"), "a") as file:
    file.write(json.dumps([line for line in text.splitlines() if line.startswith("#SBATCH")]) + "\\n")
number = 1
while True:
    try:
        os.close(os.open(os.path.join(ROOT, f"number-{{number}}"), os.O_CREAT | os.O_EXCL))
        break
    except FileExistsError:
        number += 1
job = str(number + int(open(os.path.join(ROOT, "first")).read()))
fates = json.load(open(os.path.join(ROOT, "fates.json")))
fate = fates[number - 1] if number <= len(fates) else None
if fate and fate["state"] == "REFUSED":
    sys.exit("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy")
note(job, "PENDING")
child = os.fork()
if child == 0:
    os.setsid()
    sys.stdout = sys.stderr = open(os.devnull, "w")
    os.dup2(sys.stdout.fileno(), 1); os.dup2(sys.stdout.fileno(), 2)
    environment = dict(os.environ, SLURM_JOB_ID=job, SLURM_NTASKS="1", SLURM_JOB_NUM_NODES="1", SLURM_NODEID="0",
        SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_JOB_NODELIST="here")
    note(job, "RUNNING")
    process = subprocess.Popen(["bash", script], env=environment, start_new_session=True)
    with open(os.path.join(ROOT, job + ".pid"), "w") as file:
        file.write(str(process.pid))
    while process.poll() is None:
        if fate and time.time() > fate["after"] + os.path.getmtime(script):
            for other in os.listdir("/proc"):  # the word of warning that Slurm gives the tasks of a job
                try:
                    if other.isdigit() and os.getpgid(int(other)) == process.pid and b"_submit" in open(
                        f"/proc/{{other}}/cmdline", "rb").read():
                        os.kill(int(other), signal.SIGUSR2)
                except OSError:
                    pass
            time.sleep(0.3)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            note(job, fate["state"])
            os._exit(0)
        time.sleep(0.05)
    if state_of(job) == "RUNNING":
        note(job, "COMPLETED" if process.returncode == 0 else "FAILED")
    os._exit(0)
print(f"Submitted batch job {{job}}")
"""
_SRUN = """
words = sys.argv[1:]
while words and words[0].startswith("-"):
    option = words.pop(0)
    if option in ("--output", "--error"):
        words.pop(0)
os.execvp(words[0], words)
"""
_SACCT = """
jobs = [word for at, word in enumerate(sys.argv) if sys.argv[at - 1] == "-j"]
print("JobID|State|NodeList")
for job in jobs:
    print(f"{{job}}|{{state_of(job)}}|here")
"""
_SCANCEL = """
job = [word for word in sys.argv[1:] if word.isdigit()][0]
note(job, "CANCELLED by 0")
try:
    os.killpg(int(open(os.path.join(ROOT, job + ".pid")).read()), signal.SIGKILL)
except (OSError, ValueError):
    pass
"""


def install(root: Path, fates: Sequence[tuple[str, float]] = ()) -> Path:
    """Put the commands into a directory below ``root``, for PATH; its path.

    ``fates`` are, for the first jobs in their order, the state that each ends in and after how many seconds.
    """
    commands, state = root / "bin", root / "state"
    commands.mkdir(parents=True)
    state.mkdir()
    told = [{"state": name, "after": seconds} for name, seconds in fates]
    # Whoever asks keeps what a number was said to be, so numbers do not come again.
    (state / "first").write_text(str(time.time_ns() // 1_000_000 % 10**9))
    (state / "fates.json").write_text(json.dumps(told))
    for name, body in {"sbatch": _SBATCH, "srun": _SRUN, "sacct": _SACCT, "scancel": _SCANCEL}.items():
        path = commands / name
        path.write_text((_HEAD + body).format(python=sys.executable, root=str(state)))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return commands


def submitted(root: Path) -> list[list[str]]:
    """The options that every job was submitted with, in order."""
    return [json.loads(line) for line in (root / "state" / "asked.txt").read_text().splitlines()]
