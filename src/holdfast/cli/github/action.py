"""What the action does: find the baseline, run the gate, and tell what came of it; or bless a baseline.

Exit status: 0 PASS (and INCONCLUSIVE with ``inconclusive: warn``), 1 FAIL, 3 INCONCLUSIVE, 2 where nothing was
compared, 4 for an error that nobody foresaw.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.cli.gate import EXIT_CODES
from holdfast.cli.github.api import ApiError, keep_comment
from holdfast.cli.github.artifacts import fetch_baseline
from holdfast.cli.github.asked import Asked, read_asked, variable
from holdfast.cli.github.job import Job, read_job
from holdfast.cli.github.telling import NOTHING, Result, annotate, command, make_comment, make_summary, marker
from holdfast.cli.unexpected import EXIT_CODE, describe_unexpected
from holdfast.decisions.gate.answer import DOCUMENT, MARKDOWN, PAGE
from holdfast.decisions.gate.baseline import Baseline, bless, describe_baseline, doubt_baseline, open_baseline
from holdfast.decisions.gate.outputs.markdown import escape_markdown
from holdfast.records.errors import HoldfastError, StudyError
from holdfast.records.outputs import describe_error

BOT = "github-actions[bot]"  # whose comments a job's own token writes
_VERDICTS = {code: outcome.value for outcome, code in EXIT_CODES.items()}


def main() -> int:
    """Carry out the action; its exit status."""
    token = os.environ.get(variable("token"), "").strip()
    job = read_job(os.environ, token)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            asked = read_asked(os.environ)
            return _bless(asked, job) if asked.bless else _gate(asked, job)
        except HoldfastError as error:
            _say(command("error", str(error), title="holdfast"))
            job.put({"verdict": NOTHING, "exit-code": "2"})
            job.summarize(make_summary(Result(verdict=NOTHING, reason=str(error)), []))
            return StudyError.exit_code
    except HoldfastError as error:  # no room for a summary, say: what was told stands in the log
        _say(command("error", str(error), title="holdfast"))
        return StudyError.exit_code
    except Exception as error:
        _say(command("error", describe_unexpected(error, "the action", ["action.yml"]), title="holdfast"))
        return EXIT_CODE


def _say(line: str) -> None:
    print(line, flush=True)


# --- a gate ------------------------------------------------------------------------------------------------------


def _gate(asked: Asked, job: Job) -> int:
    now, baseline, notes = datetime.now(UTC), None, list[str]()
    try:
        baseline = _find_baseline(asked, job)
        notes += [] if baseline is None else [_tell_age(baseline, asked.most_days, now)]
        result = _run_gate(asked, "" if baseline is None else baseline.side)
    except HoldfastError as error:  # told where a verdict would be, so that no comment of before seems to hold
        result = Result(verdict=NOTHING, reason=str(error))
    for line in annotate(result, rules=asked.rules, blocks=asked.blocks):
        _say(line)
    status = result.status(blocks=asked.blocks)
    days = None if baseline is None else baseline.age(now)
    job.put(
        {
            "verdict": result.verdict,
            "exit-code": str(status),
            "page": "" if result.page is None else str(result.page),
            "folder": str(asked.output) if asked.output.is_dir() else "",
            "artifact": asked.artifact,
            "baseline-age-days": "" if days is None else f"{days:.1f}",
        }
    )
    job.summarize(make_summary(result, notes))
    if asked.comments:
        _comment(result, notes, asked, job)
    return status


def _tell_age(baseline: Baseline, most_days: float, now: datetime) -> str:
    """Say how old a baseline is, as a warning where it is too old or nobody knows."""
    if doubt := doubt_baseline(baseline, most_days, now):
        _say(command("warning", doubt, file=baseline.stamp, title="holdfast baseline"))
        return doubt
    told = describe_baseline(baseline, now)
    _say(command("notice", told))
    return told


def _find_baseline(asked: Asked, job: Job) -> Baseline | None:
    """The baseline that is asked for, held against its digests. Errors: StudyError where there is none, ApiError."""
    path = asked.baseline
    if asked.baseline_from:
        folder = Path(tempfile.mkdtemp(prefix="holdfast-baseline-", dir=job.temporary))
        path = fetch_baseline(job.open_api(), asked.baseline_from, folder / "artifact")
    return None if path is None else open_baseline(path)


def _run_gate(asked: Asked, parent: str) -> Result:
    """Run the command ``holdfast gate`` with its words in the job's log, and read what it leaves behind."""
    document = asked.output / DOCUMENT
    try:
        document.unlink(missing_ok=True)  # of an earlier gate: what is there afterwards is of this one
    except OSError as error:
        raise StudyError(f"output {asked.output}: {describe_error(error)}; give another directory") from error
    code, last = _call(asked.words(parent))
    verdict = _VERDICTS.get(code)
    try:
        found: Any = json.loads(document.read_bytes()) if verdict is not None else None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("outcome") != verdict or verdict is None:
        return Result(verdict=NOTHING, reason=last.removeprefix("holdfast: ") or f"it ended with exit code {code}")
    markdown = (asked.output / MARKDOWN).read_text(encoding="utf-8")
    return Result(verdict=verdict, document=found, markdown=markdown, page=asked.output / PAGE)


def _call(words: Sequence[str]) -> tuple[int, str]:
    """The exit code of a command of holdfast, and the last line of its standard error.

    Whatever it prints, the runner takes no line of it for a command. The job's token is not handed on.
    """
    kept = {name: value for name, value in os.environ.items() if name != variable("token")}
    resume, last = secrets.token_hex(16), ""
    _say(f"::stop-commands::{resume}")
    try:
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "holdfast", *words],
            env=kept,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                sys.stdout.write(line)
                sys.stdout.flush()
                last = line.strip() or last
            code = process.wait()
    finally:
        _say(f"\n::{resume}::")
    return code, last


def _comment(result: Result, notes: list[str], asked: Asked, job: Job) -> None:
    """Keep the comment on the pull request; where that cannot be, one warning, and the verdict stands as it is."""
    try:
        pull, commit = job.read_event()
        if pull is None:
            return
        parts = [f"commit {commit[:7]}"] if commit else []
        parts += [f"[the job]({job.run})"] if job.run else []
        footer = f"<sub>{', '.join(parts)}; each run writes this comment anew</sub>" if parts else ""
        body = make_comment(result, notes, name=asked.name, footer=footer)
        author = asked.inputs["comment-author"] or BOT
        done = keep_comment(job.open_api(), pull, body, mark=marker(asked.name), author=author)
        _say(command("notice", f"the comment on pull request {pull} is {done}"))
    except HoldfastError as error:
        _say(command("warning", f"no comment: {error}{_explain(error)}", title="holdfast comment"))


def _explain(error: HoldfastError) -> str:
    if isinstance(error, ApiError) and error.status in (401, 403, 404):
        return (
            "; the job needs permissions: pull-requests: write, which one for a fork never has. The verdict stands in"
            " the job's summary"
        )
    return ""


# --- a baseline --------------------------------------------------------------------------------------------------


def _bless(asked: Asked, job: Job) -> int:
    made = bless(asked.bless, asked.output, commit=job.commit)
    told = describe_baseline(made, datetime.now(UTC))
    _say(command("notice", told))
    job.put({"exit-code": "0", "folder": str(asked.output), "artifact": asked.artifact})
    job.summarize(f"## holdfast baseline\n\n{escape_markdown(told)}\n")
    return 0
