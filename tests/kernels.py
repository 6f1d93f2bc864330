"""Runs the tests that compare numbers with a tolerance under six sets of kernels, and says which kernels these were.

    python tests/kernels.py [ENVIRONMENT ...] [-- PYTEST ARGUMENTS]

Sums are taken in other orders by other processors' kernels. Each environment is a process of its own, for kernels are
chosen when a library is loaded. At the end stand what ran, and how much of each 32-bit tolerance rounding took.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tolerances import LEFT_OUT, TESTS, names_of_tests, needs_kernels

# Read by ``conftest`` and ``rounding``, which this script does not import: they load torch.
THREADS, NOTES = "HOLDFAST_KERNEL_THREADS", "HOLDFAST_ROUNDING_NOTES"
# As low as each library goes: torch's vector code, oneDNN, MKL and OpenBLAS.
_LOWEST = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "MKL_CBWR": "COMPATIBLE",
    "OPENBLAS_CORETYPE": "PRESCOTT",
}
# By name: threads, and what is set; what chooses kernels and is not set here is taken out of the environment.
ENVIRONMENTS: Mapping[str, tuple[int, Mapping[str, str]]] = {
    "unset-1": (1, {}),
    "avx2-1": (1, {"ATEN_CPU_CAPABILITY": "avx2"}),
    "default-1": (1, {"ATEN_CPU_CAPABILITY": "default"}),
    "onednn-1": (1, {"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    "unset-2": (2, {}),
    "lowest-2": (2, _LOWEST),
}
_CHOOSES = re.compile(r"^(ATEN_CPU|ONEDNN|DNNL|MKL|OPENBLAS|NPY_(EN|DIS)ABLE|OMP|NVPL|BLIS|VECLIB)")
_MARKS = "kernels and not full and not gpu and not network"
# What each library says of itself, in a process of its own: a product in each precision and a convolution.
_PROBE = """
import ctypes, os
from pathlib import Path
import numpy, scipy, torch
ones = torch.ones(64, 64)
ones @ ones, ones.double() @ ones.double(), ones.bfloat16() @ ones.bfloat16()
torch.nn.functional.conv2d(torch.ones(1, 8, 16, 16), torch.ones(8, 8, 3, 3))
print("torch " + torch.backends.cpu.get_cpu_capability())
print(f"threads {torch.get_num_threads()}")
for library in (numpy, scipy):
    folder = Path(library.__file__).parents[1] / (library.__name__ + ".libs")
    for path in folder.glob("*openblas*"):
        for ending in ("64_", ""):
            told = getattr(ctypes.CDLL(str(path)), "scipy_openblas_get_corename" + ending, None)
            if told is not None:
                told.restype = ctypes.c_char_p
                print(library.__name__ + " " + told().decode())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an environment's tests did: the last line of pytest, seconds, the kernels, and what ``within`` noted."""

    name: str
    kernels: str
    passed: bool
    summary: str
    output: str
    seconds: float
    notes: list[tuple[str, float, float]]


def environment(name: str) -> dict[str, str]:
    """The variables of a process that runs in a named environment."""
    threads, told = ENVIRONMENTS[name]
    kept = {key: value for key, value in os.environ.items() if not _CHOOSES.match(key)}
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", THREADS), str(threads))
    # Threads that wait do not spin: two environments share the processor.
    return {**kept, **counts, "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", **told}


def kernels_in_use(name: str) -> str:
    """What libraries in an environment say they use, in one line."""
    told = environment(name) | {"ONEDNN_VERBOSE": "1", "MKL_VERBOSE": "1"}
    ran = subprocess.run([sys.executable, "-c", _PROBE], env=told, capture_output=True, text=True, check=True)
    return read_probe(ran.stdout)


def read_probe(text: str) -> str:
    """The kernels that a probe's output names."""
    plain = dict(line.split(" ", 1) for line in text.splitlines() if re.match(r"(torch|threads|numpy|scipy) ", line))
    isa = re.search(r"^onednn_verbose,.*info,cpu,isa:(.*)$", text, re.M)
    ran = dict.fromkeys(re.findall(r"^onednn_verbose,.*exec,cpu,\w+,([^,]+),", text, re.M))
    reproducible = sorted(set(re.findall(r"CNR:(\S+)", text)))
    processor = re.search(r"^MKL_VERBOSE oneMKL.* for (.*?), Lnx", text, re.M)
    mkl = f"{processor[1]}, CNR {'/'.join(reproducible)}" if processor else "not used"
    onednn = f"{isa[1] if isa else 'unknown'}: {', '.join(ran)}" if ran else "not used"
    blas = " and ".join(f"{plain[library]} ({library})" for library in ("numpy", "scipy") if library in plain)
    return (
        f"torch {plain.get('torch', 'unknown')}, {plain.get('threads', '?')} threads; "
        f"oneDNN {onednn}; MKL {mkl}; OpenBLAS {blas or 'not found'}"
    )


def files_to_run() -> list[str]:
    """The files with tests that need the kernels: the others need not be imported."""
    found = []
    for path in sorted(TESTS.glob("*/test_*.py")):
        if path.name not in LEFT_OUT and any(needs_kernels(path, name) for name in names_of_tests(path)):
            found.append(str(path))
    return found


def run(name: str, files: Sequence[str], more: Sequence[str], folder: Path) -> Outcome:
    """An environment's tests."""
    kernels, notes, started = kernels_in_use(name), folder / f"{name}.jsonl", time.monotonic()
    print(f"{name}: {kernels}", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=10", "-m", _MARKS]
    ran = subprocess.run(
        [*command, f"--basetemp={folder / name}", *more, *files],
        env=environment(name) | {NOTES: str(notes)},
        cwd=TESTS.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = ran.stdout.strip().splitlines()
    told = lines[-1].strip("= ") if lines and " in " in lines[-1] else f"ended with {ran.returncode} before its end"
    outcome = Outcome(
        name=name,
        kernels=kernels,
        passed=ran.returncode == 0,
        summary=told,
        output=ran.stdout,
        seconds=time.monotonic() - started,
        notes=[tuple(json.loads(line)) for line in notes.read_text().splitlines()] if notes.exists() else [],
    )
    print(f"{name}: {outcome.summary}", flush=True)
    return outcome


def spreads(outcomes: Iterable[Outcome]) -> list[tuple[str, float, float]]:
    """Of each place that bounds rounding: the most that any environment used of its tolerance, and that tolerance."""
    found: dict[str, tuple[float, float]] = {}
    for outcome in outcomes:
        for place, error, tolerance in outcome.notes:
            known = found.get(place)
            if known is None or error * known[1] > known[0] * tolerance:
                found[place] = (error, tolerance)
    return [(place, error, tolerance) for place, (error, tolerance) in sorted(found.items())]


def main(arguments: Sequence[str]) -> int:
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    names, more = list(arguments[:cut]) or list(ENVIRONMENTS), list(arguments[cut + 1 :])
    if unknown := [name for name in names if name not in ENVIRONMENTS]:
        print(f"kernels: no environment {unknown[0]}; choose from {', '.join(ENVIRONMENTS)}")
        return 2
    files, started = files_to_run(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="holdfast-kernels-") as folder, ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda name: run(name, files, more, Path(folder)), names))
    for outcome in outcomes:
        if not outcome.passed:
            print(f"\n===== {outcome.name}: {outcome.kernels}\n{outcome.output}")
    print("\nLeft out:")
    for place, reason in LEFT_OUT.items():
        print(f"  {place}: {reason}")
    print("\nPlace that bounds 32-bit rounding; largest error; tolerance; tolerance by error:")
    for place, error, tolerance in spreads(outcomes):
        print(f"  {place}; {error:.2g}; {tolerance:.2g}; {tolerance / error if error else float('inf'):.1f}")
    print("\nEnvironment; seconds; tests; kernels in use:")
    for outcome in outcomes:
        print(f"  {outcome.name}; {outcome.seconds:.0f}; {outcome.summary}; {outcome.kernels}")
    print(f"{sum(outcome.passed for outcome in outcomes)} of {len(outcomes)} pass, {time.monotonic() - started:.0f} s")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
