"""GitHub as far as the action meets it: an API on this machine, a job's environment, and a runner of its own steps."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from builders.places import ROOT

REPOSITORY = "team/agent"
BOT = "github-actions[bot]"
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"] if "name" in step}
_EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
_INPUT = re.compile(r"inputs\.([\w-]+)")


@dataclass
class Hub:
    """What the API holds and was asked. ``refuses`` gives a status by method, ``fails`` how often each is 502 first."""

    url: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    packed: dict[int, bytes] = field(default_factory=dict)
    refuses: dict[str, int] = field(default_factory=dict)
    fails: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, authorization

    def count(self, method: str) -> int:
        return sum(one[0] == method for one in self.asked)

    def comment(self, body: str, login: str = BOT) -> dict[str, Any]:
        made = {"id": 1000 + len(self.comments), "body": body, "user": {"login": login}}
        self.comments.append(made)
        return made

    def keep(self, name: str, folder: Path, **about: Any) -> dict[str, Any]:
        """An artifact with a directory's files, as a run on the default branch keeps it unless said otherwise."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for one in sorted(folder.rglob("*")):
                if one.is_file():
                    archive.write(one, one.relative_to(folder))
        return self.keep_bytes(name, packed.getvalue(), **about)

    def keep_bytes(self, name: str, data: bytes, **about: Any) -> dict[str, Any]:
        number = 1 + len(self.artifacts)
        run = {"head_branch": "main", "repository_id": 7, "head_repository_id": 7}
        made = {
            "id": number,
            "name": name,
            "expired": False,
            "created_at": f"2026-01-{number:02d}T00:00:00Z",
            "digest": f"sha256:{hashlib.sha256(data).hexdigest()}",
            **about,
            "workflow_run": {**run, **about.get("workflow_run", {})},
        }
        self.artifacts.append(made)
        self.packed[number] = data
        return made


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing of the tests' output."""

    def _answer(self, document: Any, status: int = 200) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refused(self) -> bool:
        hub, method = self.hub, self.command
        hub.asked.append((method, self.path, self.headers.get("Authorization", "")))
        if hub.fails.get(method, 0) > 0:
            hub.fails[method] -= 1
            self._answer({"message": "Bad gateway"}, 502)
        elif method in hub.refuses:
            self._answer({"message": "Resource not accessible by integration\n::error::x"}, hub.refuses[method])
        else:
            return False
        return True

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path.startswith("/storage/"):
            self.hub.asked.append(("STORAGE", self.path, self.headers.get("Authorization", "")))
            data = self.hub.packed[int(parts.path.rsplit("/", 1)[1])]
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            return
        if self._refused():
            return
        query, below = parse_qs(parts.query), parts.path.removeprefix(f"/repos/{REPOSITORY}")
        size, page = int(query.get("per_page", ["30"])[0]), int(query.get("page", ["1"])[0])
        cut = slice((page - 1) * size, page * size)
        if not below:
            self._answer({"default_branch": "main", "id": 7})
        elif re.fullmatch(r"/issues/5/comments", below):
            self._answer(self.hub.comments[cut])
        elif below == "/actions/artifacts":
            named = [one for one in self.hub.artifacts if one["name"] == query["name"][0]]
            self._answer({"total_count": len(named), "artifacts": named[cut]})
        elif found := re.fullmatch(r"/actions/artifacts/(\d+)/zip", below):
            self.send_response(302)
            self.send_header("Location", f"{self.hub.url}/storage/{found[1]}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self._answer({"message": "Not Found"}, 404)

    def _body(self) -> str:
        return str(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"])

    def do_POST(self) -> None:
        body = self._body()
        if not self._refused():
            fits = self.path == f"/repos/{REPOSITORY}/issues/5/comments" and len(body) <= 65_536
            self._answer(self.hub.comment(body) if fits else {"message": "no"}, 201 if fits else 422)

    def do_PATCH(self) -> None:
        body = self._body()
        if not self._refused():
            number = int(self.path.removeprefix(f"/repos/{REPOSITORY}/issues/comments/"))
            for one in self.hub.comments:
                if one["id"] == number:
                    one["body"] = body
                    self._answer(one)
                    return
            self._answer({"message": "Not Found"}, 404)


@contextmanager
def github() -> Iterator[Hub]:
    """An API that answers on this machine until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(kw_only=True)
class Ran:
    """What a step did: its exit status, what the log shows, its outputs, the job's summary."""

    code: int
    log: str
    outputs: dict[str, str]
    summary: str

    def commands(self) -> list[str]:
        """The lines that the runner takes for commands: none between ``stop-commands`` and its token."""
        found, resume = [], None
        for line in self.log.splitlines():
            if resume is not None:
                resume = None if line.strip() == f"::{resume}::" else resume
            elif (stop := re.match(r"\s*::stop-commands::(\w+)$", line)) is not None:
                resume = stop[1]
            elif line.lstrip().startswith("::") or "##[" in line:
                found.append(line)
        assert resume is None, "commands stay stopped"
        return found


def read_outputs(text: str) -> dict[str, str]:
    """Outputs as the runner reads them."""
    found, lines = {}, iter(text.split("\n"))
    for line in lines:
        if "<<" in line:
            name, end = line.split("<<", 1)
            value: list[str] = []
            while (one := next(lines)) != end:
                value.append(one)
            found[name] = "\n".join(value)
        elif line:
            name, _, value_text = line.partition("=")
            found[name] = value_text
    return found


def fill(value: str, inputs: Mapping[str, str]) -> str:
    """A variable of a step as the runner fills it in: an input, its default, or the job's own ``python``."""

    def filled(found: re.Match[str]) -> str:
        if (named := _INPUT.fullmatch(found[1])) is not None:
            default = str(ACTION["inputs"][named[1]].get("default", ""))
            return inputs.get(named[1], "job-token" if default == "${{ github.token }}" else default)
        assert found[1] == "steps.install.outputs.python || 'python'", found[1]
        return sys.executable

    return _EXPRESSION.sub(filled, value)


def run_action(
    where: Path,
    inputs: Mapping[str, str],
    *,
    hub: Hub | None = None,
    event: Mapping[str, Any] | None = None,
    step: str = "Gate",
    **variables: str,
) -> Ran:
    """Run a step of ``action.yml`` by its own shell text, in a job's environment, at a workspace ``where``."""
    assert set(inputs) <= set(ACTION["inputs"])
    files = {name: where.parent / f"{where.name}.{name.lower()}" for name in ("OUTPUT", "STEP_SUMMARY", "EVENT_PATH")}
    for path in files.values():
        path.write_text("")
    files["EVENT_PATH"].write_text(json.dumps(event or {}))
    home = {name: os.environ[name] for name in ("PATH", "HOME", "PYTHONPATH", "TMPDIR") if name in os.environ}
    environment = {
        **home,
        **{f"GITHUB_{name}": str(path) for name, path in files.items()},
        "PYTHONPATH": str(ROOT / "src"),
        "PYTHONWARNINGS": "error::ResourceWarning",
        "OMP_NUM_THREADS": "1",
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": str(where),
        "GITHUB_ACTION_PATH": str(ROOT),
        "GITHUB_REPOSITORY": REPOSITORY,
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_RUN_ID": "99",
        "GITHUB_SHA": "0123456789abcdef0123456789abcdef01234567",
        "GITHUB_API_URL": hub.url if hub is not None else "http://127.0.0.1:9",
        "RUNNER_TEMP": str(where.parent),
        **{name: fill(str(value), inputs) for name, value in STEPS[step]["env"].items()},
        **variables,
    }
    # As the runner calls it: https://docs.github.com/en/actions/reference/workflow-syntax (shell: bash).
    script = where.parent / "step.sh"
    script.write_text(STEPS[step]["run"])
    told = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        cwd=where,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Ran(
        code=told.returncode,
        log=told.stdout,
        outputs=read_outputs(files["OUTPUT"].read_text()),
        summary=files["STEP_SUMMARY"].read_text(),
    )
