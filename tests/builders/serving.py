"""Starts a server of a model directory on this machine, and stops it with all that it started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

HOST = "127.0.0.1"
# Requests to this machine take no proxy.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def transformers_server(directory: Path, log: Path, *, patience: float = 180.0) -> Iterator[str]:
    """The address of `transformers serve`, which serves the directory under its own name."""
    arguments = ["serve", directory.name, "--host", HOST, "--device", "cpu"]
    command = [sys.executable, "-m", "transformers.cli.transformers", *arguments]
    with _running(command, directory.parent, log, patience) as url:
        yield url


@contextmanager
def _running(command: Sequence[str], folder: Path, log: Path, patience: float) -> Iterator[str]:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    url = f"http://{HOST}:{port}"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(server, url, log, patience)
        yield url
    finally:
        _stop(server)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path, patience: float) -> None:
    """Until the server is healthy; its log is the reason why it never was."""
    last = time.monotonic() + patience
    while time.monotonic() < last and server.poll() is None:
        with suppress(urllib.error.URLError, OSError), _DIRECT.open(f"{url}/health", timeout=5):
            return
        time.sleep(0.2)
    ending = f"ended with {server.returncode}" if server.returncode is not None else f"not healthy after {patience:g} s"
    raise AssertionError(f"the server {ending}:\n{log.read_text(errors='replace')[-4000:]}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(10)
            return
