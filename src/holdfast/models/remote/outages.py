"""What a failed request to a provider means: whose fault it is, whether to try again, whether it may be billed."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from holdfast.models.remote.endpoints import redact
from holdfast.records.errors import Fault

LONGEST_TEXT = 300
_MOST_WRAPPINGS = 8
LONGEST_WAIT = 300.0
"""Seconds that a server may ask to be left alone."""

Retry = Literal["never", "often", "twice"]
_NO_MONEY = re.compile(
    r"insufficient[_ ](?:quota|balance|credit|funds)|billing_(?:hard_limit|not_active)|credit balance|out of credits",
    re.IGNORECASE,
)
_WRONG_KEY = re.compile(r"api[_ ]key[_ ](?:not[_ ])?(?:in)?valid|invalid[_ ]api[_ ]key", re.IGNORECASE)
_TOO_LONG = re.compile(
    r"context[_ ](?:length|window|size)|maximum[_ ](?:context|model length|input)|too many (?:input )?tokens"
    r"|(?:prompt|input|request|conversation|messages?) (?:\w+ ){0,3}(?:too long|exceeds?|longer than)|max_model_len",
    re.IGNORECASE,
)
_FEATURES = {
    "tools": re.compile(
        r"(?:does|do|is|are)(?: not|n't) (?:\w+ ){0,2}support\w* (?:\w+ ){0,3}(?:tool|function)|enable-auto-tool-choice"
        r"|(?:tools?|tool[_ ]choice|function[_ ]call\w*)\W+(?:\w+ ){0,3}(?:not (?:\w+ )?support|unsupported)",
        re.IGNORECASE,
    ),
    "schema": re.compile(r"response_format|json_schema|structured output|guided|grammar", re.IGNORECASE),
    "logprobs": re.compile(r"logprobs", re.IGNORECASE),
}
_REMEDIES = {
    401: "check the key and the variable that key_env names",
    402: "add money to the account there",
    403: "check what the key may use",
    404: "check the model's name and base_url",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a failed request means. ``too_long`` and ``features`` say what of it the server cannot take.

    ``wait`` is the seconds that the server asks to wait, where it does; ``billed`` whether it may have cost money;
    ``sent`` whether the server got the request, which a budget of calls counts.
    """

    fault: Fault
    retry: Retry
    billed: bool
    text: str
    sent: bool = True
    wait: float | None = None
    too_long: bool = False
    features: tuple[str, ...] = ()


def read_failure(error: Exception, key: str | None = None) -> Failure:
    """What the error of a request made with ``key`` means, its text in one line and without keys."""
    error = _unwrap(error)
    chain = tuple(_chain(error))
    status = next((code for cause in chain if (code := _status(cause)) is not None), None)
    text = _tell(chain, key)

    def is_caused_by(*names: str) -> bool:
        return any(_named(cause, *names) for cause in chain)

    if isinstance(error, TimeoutError):
        return Failure(fault="unavailable", retry="often", billed=True, text="no reply in time")
    if status is not None:
        return _read_status(status, text, chain)
    if is_caused_by("ConnectionRefusedError", "gaierror", "ConnectError"):
        finding = f"no connection ({text}); check base_url"
        if is_caused_by("SSLError"):
            finding = f"no secure connection ({text}); check base_url and the server's certificate"
        return Failure(fault="refused", retry="often", billed=False, sent=False, text=finding)
    if is_caused_by("ConnectTimeout", "PoolTimeout"):
        finding = f"no connection in time ({text}); check base_url and the network"
        return Failure(fault="unavailable", retry="often", billed=False, sent=False, text=finding)
    if is_caused_by("PrerequisiteError"):
        return Failure(fault="refused", retry="never", billed=False, sent=False, text=text, features=_lacking(text))
    if (body := next((cause for cause in chain if _named(cause, "BadBody")), None)) is not None:
        finding = f"the reply's body is not taken: {body}; check what base_url leads to"
        return Failure(fault="unavailable", retry="twice", billed=True, text=finding)
    if is_caused_by("APIConnectionError", "TransportError", "OSError"):
        finding = f"the connection broke off ({text}); check the server and the network"
        return Failure(fault="unavailable", retry="often", billed=True, text=finding)
    return Failure(fault="unavailable", retry="twice", billed=True, text=_no_reply(text), features=_lacking(text))


def _no_reply(text: str) -> str:
    return f"what came back is no reply ({text}); check what base_url leads to"


def _lacking(text: str) -> tuple[str, ...]:
    """What of a request an error says the server is without."""
    return tuple(name for name, pattern in _FEATURES.items() if pattern.search(text))


def _read_status(status: int, text: str, chain: tuple[BaseException, ...]) -> Failure:
    finding = f"HTTP {status} ({text})"
    if status < 300:
        return Failure(fault="unavailable", retry="twice", billed=True, text=_no_reply(text))
    if status < 400:
        finding = f"HTTP {status}: it redirects elsewhere, which is not followed; set base_url to the final address"
        return Failure(fault="refused", retry="never", billed=False, text=finding)
    if status in _REMEDIES or _NO_MONEY.search(text) or (status == 400 and _WRONG_KEY.search(text)):
        remedy = _REMEDIES[402 if _NO_MONEY.search(text) else status if status in _REMEDIES else 401]
        return Failure(fault="refused", retry="never", billed=False, text=f"{finding}; {remedy}")
    if status in (408, 409, 425, 429) or status >= 500:
        return Failure(fault="unavailable", retry="often", billed=False, text=finding, wait=_asked_wait(chain))
    too_long, features = bool(_TOO_LONG.search(text)), _lacking(text)
    return Failure(fault="rejected", retry="never", billed=False, text=finding, too_long=too_long, features=features)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _unwrap(error: Exception) -> Exception:
    """The error behind one that only says that it was tried again, whose own text names no cause."""
    for _ in range(_MOST_WRAPPINGS):
        attempt = getattr(error, "last_attempt", None)
        inner = attempt.exception() if attempt is not None and attempt.done() else error.__cause__
        if not _named(error, "RetryError") or not isinstance(inner, Exception):
            break
        error = inner
    return error


def _named(error: BaseException, *names: str) -> bool:
    """Whether the error is of a class of one of these names, in whichever HTTP library."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    found = (getattr(error, name, None) for name in ("status_code", "code"))
    return next((code for code in found if isinstance(code, int) and 100 <= code < 600), None)


def _tell(chain: tuple[BaseException, ...], key: str | None) -> str:
    """One line: what the innermost error that speaks of the server says, for outer ones repeat whole requests."""
    told = next((one for one in chain if _status(one) is not None and not hasattr(one, "provider_message")), chain[0])
    text = str(getattr(told, "message", None) or told) or type(told).__name__
    if told is chain[0] and _named(told, "APIConnectionError") and told.__cause__ is not None:
        text = str(told.__cause__) or type(told.__cause__).__name__
    line = redact(" ".join("".join(letter if letter.isprintable() else " " for letter in text).split()), key)
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"


def _asked_wait(chain: tuple[BaseException, ...]) -> float | None:
    """The seconds of a Retry-After header, a number or a date; None where there is none that can be read."""
    headers: Mapping[str, Any] = next(
        (found for one in chain if (found := getattr(getattr(one, "response", None), "headers", None))), {}
    )
    value = str(headers.get("retry-after", ""))
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_WAIT) if math.isfinite(seconds) else None
