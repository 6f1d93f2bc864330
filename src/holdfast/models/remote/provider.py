"""Models of providers and servers, through Inspect AI's model API: ``openai/…``, ``anthropic/…``, ``vllm/…`` and so on.

    ask ─▶ in the ledger? ─ no ─▶ a free connection ─▶ intent ─▶ the provider ─▶ answer into the ledger ─▶ Reply
                                        ▲                            │
                                        └── a pause, as failed ◀─────┘

Retries are made here, one recorded intent each, for a request that may have been billed must not be repeated unseen;
the clients' own are switched off. A client lives as long as the event loop that it was made in.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import importlib
import random
import re
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from holdfast.models import Ask, Reply, chat_messages, chat_tools
from holdfast.models.calls.native import STOP, render
from holdfast.models.entries import EndpointSection, ModelEntry
from holdfast.models.remote.endpoints import bound_bodies, check_addresses, check_url, read_key, redact, takes_proxy
from holdfast.models.remote.ledger import Ledger
from holdfast.models.remote.outages import Failure, read_failure
from holdfast.records import ToolSpec
from holdfast.records.errors import Fault, ProviderError, StudyError, needs

if TYPE_CHECKING:
    from holdfast.models.remote.inspect_chat import Answer

GARBAGE_RETRIES = 2
"""How often a request is repeated that was answered, and so billed, with what is no reply."""

LONGEST_PAUSE = 60.0
WAIT_SECONDS = (0.05, 1.0)  # between looks for the answer to an equal call that another process has in flight
LOOKS = 10  # so often before it is asked whether that process still runs
MILLION = 1e6
UNBOUNDED = 1_000_000  # of Inspect's own connections: what waits for one of ours does not count as in flight
Pause = Callable[[float], Awaitable[None]]
_MARKUP = re.compile(r"\[/?[a-z ]+\]")


@dataclass(slots=True)
class _Client:
    """Inspect's model and the free connections of one event loop, and the error that no request there escapes."""

    loop: asyncio.AbstractEventLoop
    model: Any
    free: asyncio.Semaphore
    refused: ProviderError | None = None


class ProviderModel:
    """A remote model that answers one request at a time and many at once, and never the same one twice for money."""

    def __init__(
        self, name: str, *, entry: ModelEntry, endpoint: EndpointSection, ledger: Ledger, pause: Pause = asyncio.sleep
    ) -> None:
        """``name`` as Inspect has it; ``pause`` waits so many seconds before a retry.

        Errors: StudyError for an endpoint that is not allowed, MissingExtra without Inspect AI.
        """
        self.name, self._entry, self._endpoint, self._ledger = name, entry, endpoint, ledger
        self._place = f"endpoints.{name}"
        with needs("remote", f"the remote model {name}"):
            self._chat = importlib.import_module("holdfast.models.remote.inspect_chat")
        if endpoint.base_url is not None:
            check_url(endpoint.base_url, allow_private=endpoint.allow_private, place=self._place)
        read_key(endpoint, self._place)
        self._pause = pause
        self._client: _Client | None = None
        self._lifetime: AsyncGenerator[Any, None] | None = None
        self._without: set[str] = set()
        self._asking: weakref.WeakValueDictionary[bytes, asyncio.Lock] = weakref.WeakValueDictionary()
        self._described: dict[int, tuple[Sequence[ToolSpec], Any]] = {}
        self._host = urlsplit(endpoint.base_url).netloc if endpoint.base_url else name.partition("/")[0]

    async def ask(self, ask: Ask) -> Reply:
        """The reply, of the ledger where an equal request was answered before.

        Errors: ProviderError by fault, in one line that names the model and the host; BudgetSpent; StudyError for a
        missing package or key; StoreError where the ledger cannot be written.
        """
        key = self._key(ask)
        # An equal request in flight is waited for, not made twice.
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with lock:
            found = await self._find(ask, key)
            answer: Answer = await self._call(ask, key) if found is None else self._chat.Answer(**found)
        if answer.stop == self._chat.FILTERED:
            raise ProviderError(f"{self.name} at {self._host}: the reply was filtered by the provider", "rejected")
        return self._chat.make_reply(answer, ask.conversation.tools, ask.conversation.calls)  # type: ignore[no-any-return]

    async def _find(self, ask: Ask, key: bytes) -> Any | None:
        """What the ledger has; other calls go on while one that lies on another machine is asked."""
        return await asyncio.to_thread(self._ledger.find, key, ask.speaker, self.name)

    def _key(self, ask: Ask) -> bytes:
        """Of all that decides a reply. Ids of calls and what the model is not shown are no part of it."""
        told = {
            "model": [self.name, self._entry.revision, self._entry.calls],
            "messages": chat_messages(ask.conversation.messages),
            "tools": chat_tools(ask.conversation.tools),
            "params": [ask.temperature, ask.max_tokens],
            "schema": ask.schema,
            "logprobs": ask.logprobs,
            "replicate": ask.replicate,
        }
        return hashlib.sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)).digest()

    async def _call(self, ask: Ask, key: bytes) -> Answer:
        """The provider's answer, recorded. Errors: ProviderError when the retries are used up."""
        attempts = failed = garbage = 0
        while True:
            attempts += 1
            outcome, used = await self._attempt(ask, key, attempts)
            if outcome is None:
                attempts -= 1
                if (found := await self._wait(ask, key)) is not None:
                    return found
                continue
            if not isinstance(outcome, Failure):
                return outcome
            if shed := used.intersection(outcome.features):
                if "tools" in shed and self._entry.calls == "native":
                    raise self._error(f"{outcome.text}; set its calls to 'auto' or 'text'", "refused")
                # The server is without it: calls as text, a schema or log-probabilities not asked for.
                self._without |= shed
                continue
            failed += 1
            garbage += outcome.retry == "twice"
            if outcome.retry == "never" or failed > self._endpoint.retries or garbage > GARBAGE_RETRIES:
                raise self._error(outcome.text + (f", {attempts} attempts" if attempts > 1 else ""), outcome.fault)
            # Drawn, so that calls that failed together do not come back together.
            backoff = random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, 2.0 ** (failed - 1))
            await self._pause(max(backoff, outcome.wait or 0.0))

    async def _wait(self, ask: Ask, key: bytes) -> Answer | None:
        """The answer that another process got to an equal call; None where it may have gone without one."""
        seconds, longest = WAIT_SECONDS
        for _ in range(LOOKS):
            if (found := await self._find(ask, key)) is not None:
                return self._chat.Answer(**found)  # type: ignore[no-any-return]
            await asyncio.sleep(seconds)
            seconds = min(2 * seconds, longest)
        return None

    def _error(self, text: str, fault: Fault) -> ProviderError:
        error = ProviderError(f"{self.name} at {self._host}: {text}", fault)
        if error.fatal and self._client is not None:
            self._client.refused = error
        return error

    async def _attempt(self, ask: Ask, key: bytes, attempts: int) -> tuple[Answer | Failure | None, frozenset[str]]:
        """One request under one intent, which is settled, withdrawn, or stays where it may have been billed.

        None stands for no request, where an equal one was answered or is in flight elsewhere.
        """
        try:
            client = await self._open()
        except OSError as error:
            return read_failure(error), frozenset()
        async with client.free:
            if client.refused is not None:
                raise client.refused
            # What of the request not every server has, and this one is asked for.
            wanted = {
                "tools": bool(ask.conversation.tools) and self._entry.calls != "text",
                "schema": ask.schema is not None,
                "logprobs": ask.logprobs,
            }
            used = frozenset(name for name, want in wanted.items() if want and name not in self._without)
            generate = self._prepare(ask, used)
            if not await self._ledger.intend(key, ask.speaker, self.name):
                return None, frozenset()
            started = time.monotonic()
            try:
                async with asyncio.timeout(self._endpoint.timeout):
                    answer = await generate(client.model)
            except Exception as error:
                secret = getattr(client.model.api, "api_key", None)
                failure = read_failure(error, secret if isinstance(secret, str) else None)
                if not failure.too_long:
                    if failure.billed:
                        self._ledger.leave(key)
                    else:
                        await self._ledger.withdraw(key, sent=failure.sent)
                    return failure, used
                answer = self._chat.Answer(text="", stop="model_length", served=self.name, native=True)
            except BaseException:  # interrupted: it may have been billed
                self._ledger.leave(key)
                raise
            tokens, seconds = (answer.input_tokens, answer.output_tokens), time.monotonic() - started
            cost = (tokens[0] * self._endpoint.input_price + tokens[1] * self._endpoint.output_price) / MILLION
            kept = asdict(answer)  # of which ``Answer(**…)`` makes it again
            await self._ledger.settle(
                key, kept, answer.served, tokens=tokens, cost=cost, seconds=seconds, attempts=attempts
            )
        return answer, used

    def _prepare(self, ask: Ask, used: frozenset[str]) -> Callable[[Any], Awaitable[Answer]]:
        """What asks Inspect's model. Errors: ProviderError where a schema cannot be told so."""
        from inspect_ai.model import GenerateConfig

        tools = ask.conversation.tools
        as_text = bool(tools) and "tools" not in used
        messages = render(ask.conversation.messages, tools) if as_text else ask.conversation.messages
        try:
            schema = self._chat.response_schema(ask.schema) if "schema" in used and ask.schema is not None else None
            described = self._describe(tools) if "tools" in used else []
        except ValueError as error:
            told = " ".join(str(error).split())[:300]
            raise self._error(f"a schema of the request cannot be told to providers: {told}", "rejected") from error
        config = GenerateConfig(
            temperature=ask.temperature,
            max_tokens=ask.max_tokens,
            max_retries=0,
            max_connections=UNBOUNDED,
            stop_seqs=list(STOP) if as_text else None,
            response_schema=schema,
            logprobs=True if "logprobs" in used else None,
            top_logprobs=self._chat.TOP_LOGPROBS if "logprobs" in used else None,
        )

        async def generate(model: Any) -> Answer:
            # In a context of its own, what Inspect records of a call goes when the call does.
            output = await asyncio.create_task(
                model.generate(self._chat.chat_input(messages), tools=described, config=config),
                context=contextvars.Context(),
            )
            sent = sum(len(message.content.encode("utf-8", "replace")) for message in messages)
            answer: Answer = self._chat.read_output(output, native=not as_text, sent_bytes=sent)
            return answer

        return generate

    def _describe(self, tools: Sequence[ToolSpec]) -> Any:
        """The tools as Inspect has them, made once for the turns of an episode."""
        found = self._described.get(id(tools))
        if found is None or found[0] is not tools:
            if len(self._described) >= 256:
                self._described.clear()
            found = self._described[id(tools)] = (tools, self._chat.tool_infos(tools))
        return found[1]

    # --- clients -------------------------------------------------------------------------------------------------

    async def _open(self) -> _Client:
        """The client of the running event loop. Errors: StudyError, MissingExtra; OSError for an unknown host."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._client.loop is not loop:
            free = asyncio.Semaphore(self._endpoint.connections)
            self._client = _Client(loop=loop, model=self._make_model(), free=free)
            # A generator that has begun is closed by the loop before the loop ends.
            self._lifetime = _close_with_loop(self._client.model)
            await anext(self._lifetime)
        return self._client

    def _make_model(self) -> Any:
        from inspect_ai.model import get_model

        endpoint = self._endpoint
        if endpoint.base_url is not None:
            check_addresses(endpoint.base_url, allow_private=endpoint.allow_private, place=self._place)
        key = read_key(endpoint, self._place)
        # Else Inspect makes this provider's client at the first call, past what is switched off below.
        arguments = {"lazy_init": False} if self.name.startswith("vllm/") else {}
        try:
            model = get_model(self.name, base_url=endpoint.base_url, api_key=key, memoize=False, **arguments)
        except Exception as error:
            told = redact(" ".join(_MARKUP.sub("", str(error)).split()), key)
            raise StudyError(f"the remote model {self.name} cannot be opened: {told}") from error
        if hasattr(model.api, "strict_tools"):
            # A call that a grammar holds to its schema is not the agent's own, and servers without one refuse it.
            model.api.strict_tools = False
        client = getattr(model.api, "client", None)
        url = str(getattr(client, "base_url", None) or getattr(model.api, "base_url", None) or "")
        if url and endpoint.base_url is None:
            check_addresses(url, allow_private=endpoint.allow_private, place=self._place)
            self._host = urlsplit(url).netloc
        elif url and urlsplit(url).netloc != self._host:
            raise StudyError(
                f"{self._place}.base_url is {endpoint.base_url}, but {self.name} is open at another: {url}"
            )
        _harden(model.api, key, url or endpoint.base_url)
        return model


def _harden(api: Any, key: str | None, url: str | None) -> None:
    """Switch off what clients do unseen: requests of their own, redirects with the key, other keys than ``key``.

    What they receive is bounded, and no proxy sees what is sent to ``url`` without TLS or to this machine.
    """
    from tenacity import wait_none

    # Inspect makes a wait for every call, also where none is repeated.
    api.retry_wait = wait_none
    client: Any = getattr(api, "client", None)
    if isinstance(getattr(client, "max_retries", None), int):
        client.max_retries = 0
    if key is not None and getattr(client, "auth_token", None):
        # A token of the provider's own variable, which takes the place of the key.
        client.auth_token, client.api_key = None, key
    http: Any
    for http in (getattr(api, "http_client", None), getattr(client, "_client", None)):
        if hasattr(http, "follow_redirects"):
            http.follow_redirects = False
        if url is not None and not takes_proxy(url) and hasattr(http, "_mounts"):
            http._mounts, http._trust_env = {}, False
        bound_bodies(http)


async def _close_with_loop(model: Any) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await model.api.aclose()
