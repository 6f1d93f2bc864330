"""The job that the action runs in: what GitHub says of it in the environment, and the files that it reads back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.cli.github.api import Api
from holdfast.cli.github.telling import output_lines
from holdfast.records.errors import StudyError
from holdfast.records.inputs import read_bytes
from holdfast.records.outputs import append_file

API_URL = "https://api.github.com"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_SERVER = re.compile(r"https?://[\w.:-]+")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_MOST_EVENT = 32 << 20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job of GitHub; each part is empty where the action runs elsewhere."""

    output: Path | None
    summary: Path | None
    event: Path | None
    repository: str
    api: str
    token: str
    commit: str
    run: str
    temporary: Path

    def put(self, outputs: Mapping[str, str]) -> None:
        """Give the step its outputs. Errors: StudyError."""
        if self.output is not None:
            append_file(self.output, output_lines(outputs))

    def summarize(self, markdown: str) -> None:
        """Add to the summary of the job. Errors: StudyError."""
        if self.summary is not None:
            append_file(self.summary, markdown)

    def open_api(self) -> Api:
        """The API for this repository. Errors: StudyError where the environment does not say which."""
        if not _REPOSITORY.fullmatch(self.repository):
            raise StudyError(f"GITHUB_REPOSITORY is {self.repository!r:.80}, which is no repository; run this in a job")
        return Api(self.api, self.repository, self.token)

    def read_event(self) -> tuple[int | None, str]:
        """The number of the pull request that the job is about, and the commit that was put to the test.

        No number where it is about none. Errors: StudyError for an event that cannot be read.
        """
        if self.event is None:
            return None, self.commit
        data = read_bytes(self.event, _MOST_EVENT, remedy="run this in a job of GitHub")
        try:
            event: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise StudyError(f"{self.event}: the event is no JSON ({error}); run this in a job of GitHub") from error
        event = event if isinstance(event, dict) else {}
        pull, issue = event.get("pull_request"), event.get("issue")
        if isinstance(pull, dict):
            head = pull.get("head")
            # The job's own commit is a merge that nobody knows by its digest.
            commit = str(head.get("sha", "")) if isinstance(head, dict) else ""
            return _whole(pull.get("number")), commit if _COMMIT.fullmatch(commit) else self.commit
        if isinstance(issue, dict) and "pull_request" in issue:
            return _whole(issue.get("number")), ""
        return None, self.commit


def _whole(number: object) -> int | None:
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else None


def read_job(environment: Mapping[str, str], token: str) -> Job:
    """What the environment says of the job."""
    commit, number = environment.get("GITHUB_SHA", ""), environment.get("GITHUB_RUN_ID", "")
    server, repository = environment.get("GITHUB_SERVER_URL", ""), environment.get("GITHUB_REPOSITORY", "")
    linked = _SERVER.fullmatch(server) and _REPOSITORY.fullmatch(repository) and number.isdecimal()
    places = (environment.get(f"GITHUB_{name}", "") for name in ("OUTPUT", "STEP_SUMMARY", "EVENT_PATH"))
    output, summary, event = (Path(place) if place else None for place in places)
    return Job(
        output=output,
        summary=summary,
        event=event,
        repository=repository,
        api=environment.get("GITHUB_API_URL", "") or API_URL,
        token=token,
        commit=commit if _COMMIT.fullmatch(commit) else "",
        run=f"{server}/{repository}/actions/runs/{number}" if linked else "",
        temporary=Path(environment.get("RUNNER_TEMP", "") or "."),
    )
