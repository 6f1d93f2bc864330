"""GitHub's API, as far as the action asks it: a pull request's comments, and an artifact with a baseline.

Requests carry the job's token and go to the API's own address alone: redirects are not followed, and where an artifact
lies is asked without the token.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from holdfast.models.remote.endpoints import check_url, redact, takes_proxy
from holdfast.records.errors import HoldfastError
from holdfast.report.words.inert import cut_line

TIMEOUT = 30  # seconds, for a connection and between two parts of an answer
MOST_BYTES = 32 << 20  # of an answer
MOST_ARTIFACT = 4 << 30  # bytes, packed
PAGE = 100  # comments or artifacts on a page of the API
MOST_PAGES = 100
_WAITS = (1.0, 3.0)  # seconds before the second and third try of what may be repeated
_REPEATED = ("GET", "PATCH")


class ApiError(HoldfastError):
    """The API did not do what it was asked; ``status`` is 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        self.status = status
        super().__init__(message)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Leave the redirect to the caller: the token is not for another address."""


class Api:
    """The API at an address, asked for one repository."""

    def __init__(self, url: str, repository: str, token: str) -> None:
        """Errors: StudyError for an address to which a token must not go."""
        check_url(url, allow_private=False, place="GITHUB_API_URL")
        self.root = f"{url.rstrip('/')}/repos/{quote(repository)}"
        self._token = token

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON that a request below the repository is answered with. Errors: ApiError."""
        for wait in _WAITS if method in _REPEATED else ():
            try:
                return self._ask(method, path, body)
            except ApiError as error:
                if 0 < error.status < 500 and error.status != 429:
                    raise
                time.sleep(wait)
        return self._ask(method, path, body)

    def pages(self, path: str, key: str | None = None) -> Iterator[Mapping[str, Any]]:
        """Every entry of a list that the API gives in pages, or of its ``key``. Errors: ApiError."""
        join = "&" if "?" in path else "?"
        for number in range(1, MOST_PAGES + 1):
            found = self.ask("GET", f"{path}{join}per_page={PAGE}&page={number}")
            rows = found.get(key) if key is not None and isinstance(found, dict) else found
            if not isinstance(rows, list):
                raise ApiError(f"GET {path}: is answered with no list")
            yield from (row for row in rows if isinstance(row, dict))
            if len(rows) < PAGE:
                return
        raise ApiError(f"GET {path}: has more than {MOST_PAGES * PAGE:,} entries")

    def download(self, path: str, target: Path) -> None:
        """Put what the API redirects to into a file, asked without the token. Errors: ApiError, StudyError."""
        try:
            with self._open("GET", path, None) as answer:
                _write(answer, target)
                return
        except urllib.error.HTTPError as error:
            if error.code not in (301, 302, 303, 307, 308):
                raise self._told("GET", path, error) from error
            place = error.headers.get("Location", "")
        except (OSError, HTTPException) as error:
            raise self._told("GET", path, error) from error
        check_url(place, allow_private=False, place="the address of an artifact")
        try:
            with _opener(place).open(urllib.request.Request(place), timeout=TIMEOUT) as answer:
                _write(answer, target)
        except (OSError, HTTPException) as error:
            raise self._told("GET", path, error) from error

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        try:
            with self._open(method, path, data) as answer:
                found = answer.read(MOST_BYTES + 1)
                if len(found) > MOST_BYTES:
                    raise ApiError(f"{method} {path}: is answered with more than {MOST_BYTES >> 20} MiB")
                return json.loads(found)
        except (OSError, HTTPException) as error:
            raise self._told(method, path, error) from error
        except (ValueError, RecursionError) as error:
            raise ApiError(f"{method} {path}: is answered with no JSON") from error

    def _open(self, method: str, path: str, data: bytes | None) -> Any:
        url = f"{self.root}{path}"
        headers = {
            "Accept": "application/vnd.github+json",
            "X-GitHub-Api-Version": "2022-11-28",
            "User-Agent": "holdfast",
        }
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if data is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(url, data=data, headers=headers, method=method)
        return _opener(url).open(request, timeout=TIMEOUT)

    def _told(self, method: str, path: str, error: Exception) -> ApiError:
        """An error in words, with what the API says of it and nothing that is secret."""
        if not isinstance(error, urllib.error.HTTPError):
            return ApiError(redact(f"{method} {path}: no answer ({error})", self._token))
        said = ""
        try:
            said = str(json.loads(error.read(1 << 16))["message"])
        except (OSError, HTTPException, ValueError, KeyError, TypeError, RecursionError):
            said = str(error.reason)
        return ApiError(redact(f"{method} {path}: {error.code} {cut_line(said, 200)}", self._token), error.code)


def _opener(url: str) -> urllib.request.OpenerDirector:
    proxies = urllib.request.ProxyHandler() if takes_proxy(url) else urllib.request.ProxyHandler({})
    return urllib.request.build_opener(proxies, _NoRedirect)


def _write(answer: IO[bytes], target: Path) -> None:
    """Write an answer to a file, piece by piece. Errors: ApiError where it is too large or ends early."""
    headers: HTTPMessage = answer.headers  # type: ignore[attr-defined]
    size, told = 0, headers.get("Content-Length")
    with target.open("wb") as file:
        while piece := answer.read(1 << 20):
            size += len(piece)
            if size > MOST_ARTIFACT:
                raise ApiError(f"the artifact has more than {MOST_ARTIFACT >> 30} GiB")
            file.write(piece)
    if told is not None and told.isdigit() and size != int(told):
        raise ApiError(f"the artifact broke off after {size:,} of {int(told):,} bytes")


def keep_comment(api: Api, pull: int, body: str, *, mark: str, author: str) -> str:
    """Put ``body`` into the comment of ``author`` that begins with ``mark``, or into a new one; which of the two.

    A comment of anybody else is never written to, whatever it begins with: its author could change it afterwards.
    Errors: ApiError.
    """
    for one in api.pages(f"/issues/{pull}/comments"):
        user = one.get("user")
        mine = isinstance(user, dict) and user.get("login") == author
        if mine and str(one.get("body", "")).startswith(mark) and isinstance(one.get("id"), int):
            try:
                api.ask("PATCH", f"/issues/comments/{one['id']}", {"body": body})
                return "updated"
            except ApiError as error:
                if error.status not in (404, 410):  # removed meanwhile
                    raise
    api.ask("POST", f"/issues/{pull}/comments", {"body": body})
    return "written"
