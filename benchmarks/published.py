"""Import, pairs and analysis of the published data: wall clock, CPU, peak memory, size on disk.

    python benchmarks/published.py [--json] [--data DIRECTORY]

Each part runs in a process of its own, starting included. Ratios are the published code's user CPU seconds and
peak memory over ours: pairs against each of its ``prepare_dpo_data`` runs, analysis against ``partition_results``
with 10,000 resamples; it has no step that corresponds to the import.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import document, show

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
PACKAGES = ("numpy", "scipy", "orjson", "zstandard")
COMMAND = "import sys; from holdfast.cli.main import main; sys.exit(main(sys.argv[1:]))"
ANALYZE = (
    "import sys; from pathlib import Path; from holdfast.analysis import analyze; from holdfast.store import Store\n"
    "with Store(Path(sys.argv[1])) as store: print(len(analyze(store, draws=10_000).persistence))"
)
# The published code on a like machine: name → (user CPU seconds, peak MB).
THEIRS = {
    "pairs_safety_gpt-5-mini": (21.54, 864.1),
    "pairs_helpfulness_gpt-5-mini": (21.16, 863.9),
    "pairs_both_gpt-5-mini": (11.88, 811.5),
    "pairs_safety_Qwen3-32B": (18.81, 833.3),
    "pairs_helpfulness_Qwen3-32B": (18.42, 830.7),
    "pairs_both_Qwen3-32B": (11.44, 801.2),
    "analyze": (139.56, 567.9),
}
PAIR_OBJECTIVES = {"safety": ("safety",), "helpfulness": ("helpfulness",), "both": ("safety", "helpfulness")}


def measure(script: str, *arguments: str) -> tuple[dict[str, float], str]:
    """Wall, user and system seconds and peak memory of a Python process, and its standard output."""
    paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments], stdout=output, stderr=subprocess.DEVNULL, env=environment
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read().decode()
    if process.returncode:
        raise SystemExit(f"{arguments}: exit code {process.returncode}")
    figures = {
        "wall_s": round(wall, 3),
        "user_cpu_s": round(usage.ru_utime, 3),
        "system_cpu_s": round(usage.ru_stime, 3),
        "peak_mb": round(usage.ru_maxrss * 1024 / 1e6, 1),
    }
    return figures, printed


def folder_mb(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


def run_parts(data: Path, runs: Path) -> dict[str, dict[str, float]]:
    """The figures of every part, by name."""
    figures: dict[str, dict[str, float]] = {}
    for name in ("raw", "match"):
        source = data / f"published-{name}.tar.zst"
        figures[f"import_{name}"], _ = measure(COMMAND, "import", str(source), "-o", str(runs / name))
        figures[f"import_{name}"]["disk_mb"] = folder_mb(runs / name)
    for judge in ("gpt-5-mini", "Qwen3-32B"):
        for label, objectives in PAIR_OBJECTIVES.items():
            chosen = [part for one in objectives for part in ("--objective", one)]
            measured, printed = measure(COMMAND, "pairs", str(runs / "raw"), *chosen, "--judge", judge, "--json")
            figures[f"pairs_{label}_{judge}"] = {**measured, "pairs": json.loads(printed)["pairs"]}
    figures["analyze"], _ = measure(ANALYZE, str(runs / "match"))
    return figures


def ratios(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Theirs over ours: above 1 is in our favour."""
    return {
        name: {
            "user_cpu": round(seconds / figures[name]["user_cpu_s"], 1),
            "peak_memory": round(megabytes / figures[name]["peak_mb"], 1),
        }
        for name, (seconds, megabytes) in THEIRS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--data", type=Path, default=DATA, help="directory of the published archives")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run_parts(options.data, Path(folder))
    show(document("published", PACKAGES, figures, ratios(figures)), as_json=options.json)


if __name__ == "__main__":
    main()
