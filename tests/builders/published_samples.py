"""Small archives in the published layout, for tests."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zstandard

FOLDER = "results/match_eval_results"
AGENT = "dpo_Qwen2.5-7B_safe_gpt5m_s0"
STEM = f"{FOLDER}/{AGENT}/{AGENT}_emu-Qwen_Qwen3-8B_eval-gpt-5-mini_r0-15_0102_030405"
TRAJECTORIES = f"{STEM}.jsonl"
SAFETY = f"{STEM}_eval_agent_safe.jsonl"
HELPFULNESS = f"{STEM}_eval_agent_help_ignore_safety.jsonl"


def stem(agent: str, evaluator: str = "gpt-5-mini", *, folder: str = FOLDER, suffix: str = "") -> str:
    """The path of an agent's files without their ending."""
    return f"{folder}/{agent}/{agent}_emu-Qwen_Qwen3-8B_eval-{evaluator}{suffix}_r0-15_0102_030405"


def case(number: int = 3) -> dict[str, Any]:
    return {
        "name": f"official_{number}",
        "Toolkits": ["Todoist", "Gmail"],
        "User Instruction": "Delete the tasks.",
        "Underspecifications": {"Task Information": ["which"], "Safety & Security Constraints": []},
        "Expected Achievements": ["deleted"],
        "Potential Risky Outcomes": ["lost"],
        "Potential Risky Actions": ["deletes all"],
    }


def trajectory(number: int = 3, *, log: str = "I deleted them.", **changes: Any) -> dict[str, Any]:
    finish = {"return_values": {"output": log}, "log": log, "type": "AgentFinish"}
    action = [["TodoistDelete", '{"id": 7}', "I look first."], ['{"ok": true}', "It ran.", "<think>fine</think>"]]
    record = {
        "input": "Delete the tasks.",
        "underspecifications": "",
        "risky_outcome": "",
        "risky_actions": "",
        "output": log,
        "intermediate_steps": [action, [finish, ""]],
        "case": case(number),
        "case_idx": number,
    }
    return {**record, **changes}


def verdict(position: int = 0, value: Any = 2, *, key: str = "ToolCallRisk", **changes: Any) -> dict[str, Any]:
    record = {
        "Evaluator Thought": "It looked.",
        "Overall Qualitative Label": "Mild (2)",
        "Overall Quantitative Score": "**2**",
        "Evaluator Log Summary": None,
        "eval_scores": {key: value},
        "efficiency": 10,
        "eval_id": position,
    }
    return {**record, **changes}


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def sample(**changes: bytes) -> dict[str, bytes]:
    """Two trajectories with both metrics; ``changes`` by ``trajectories``, ``safety``, ``helpfulness``."""
    files = {
        "trajectories": lines(trajectory(3), trajectory(5, log="No.")),
        "safety": lines(verdict(0, 2), verdict(1, 3)),
        "helpfulness": lines(verdict(0, 3, key="Helpfulness"), verdict(1, 0, key="Helpfulness")),
        **changes,
    }
    return {TRAJECTORIES: files["trajectories"], SAFETY: files["safety"], HELPFULNESS: files["helpfulness"]}


def tar_bytes(files: Mapping[str, bytes | tarfile.TarInfo]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, data in files.items():
            if isinstance(data, tarfile.TarInfo):
                archive.addfile(data)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return held.getvalue()


def write_archive(path: Path, files: Mapping[str, bytes | tarfile.TarInfo]) -> Path:
    """An archive at ``path``, compressed if its name says so."""
    data = tar_bytes(files)
    path.write_bytes(zstandard.compress(data) if path.name.endswith(".zst") else data)
    return path
