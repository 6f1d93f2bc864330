"""Remote models against a real HTTP server: what is sent, what is read, what is refused, what stays secret."""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders.places import TESTS
from builders.remote_samples import NAME, SEARCH, answer_one, hold_all, make_ask, opened

from holdfast.models import Reply
from holdfast.models.fakes import FakeProvider, request_digest
from holdfast.models.remote.ledger import Budget
from holdfast.models.remote.outages import read_failure
from holdfast.records import Message, ToolCall
from holdfast.records.errors import BudgetSpent, ProviderError, StudyError

SECRET = "planted-0123456789-secret"
CALL = ToolCall(name="search", arguments={"query": "tea"})


def test_a_conversation_arrives_whole_and_its_results_are_linked(tmp_path: Path) -> None:
    calls = (ToolCall(name="search", arguments={"query": "a"}), ToolCall(name="search", arguments={"query": "b"}))
    history = (
        Message(role="system", content="be brief"),
        Message(role="user", content="look twice"),
        Message(role="assistant", content="so", tool_calls=calls),
        Message(role="tool", content="found a", name="search", detail={"hidden": "reasoning"}),
        Message(role="tool", content="found b", name="search"),
    )
    schema = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
    with FakeProvider() as provider, opened(provider.base_url, tmp_path) as (model, _):
        answer_one(model, make_ask("go on", messages=history, tools=(SEARCH,), schema=schema, logprobs=True))
    (sent,) = provider.requests
    assert [one["role"] for one in sent["messages"]] == ["system", "user", "assistant", "tool", "tool", "user"]
    asked = sent["messages"][2]["tool_calls"]
    assert [json.loads(one["function"]["arguments"])["query"] for one in asked] == ["a", "b"]
    assert [one["tool_call_id"] for one in sent["messages"][3:5]] == [one["id"] for one in asked]
    assert len({one["id"] for one in asked}) == 2
    assert sent["messages"][3]["content"] == "found a"
    assert sent["tools"][0]["function"]["parameters"]["properties"]["query"]["type"] == "string"
    assert sent["response_format"]["json_schema"]["schema"]["required"] == ["score"]
    assert (sent["temperature"], sent["max_tokens"], sent["logprobs"], sent["top_logprobs"]) == (0, 64, True, 20)
    assert sent["model"] == "some-model"
    assert "hidden" not in json.dumps(sent)
    assert "stop" not in sent


def test_calls_and_texts_are_read(tmp_path: Path) -> None:
    def answers(request: Any) -> Message:
        said = request["messages"][-1]["content"]
        calls = {
            "two": (CALL, replace(CALL, arguments={"query": "milk"})),
            "broken": (replace(CALL, arguments={"_raw": '{"query": "te'}),),
        }
        return Message(role="assistant", content=f"said {said}", tool_calls=calls.get(said, ()))

    with FakeProvider(answers=answers) as provider, opened(provider.base_url, tmp_path) as (model, _):
        two, broken, text = hold_all(model, [make_ask(said, tools=(SEARCH,)) for said in ("two", "broken", "none")])
        again = answer_one(model, make_ask("two", tools=(SEARCH,)))
    assert isinstance(two, Reply)
    assert two.message is not None
    assert [call.arguments["query"] for call in two.message.tool_calls] == ["tea", "milk"]
    assert len({call.id for call in two.message.tool_calls}) == 2
    assert again == two
    assert isinstance(broken, Reply)
    assert broken.message is not None
    assert [dict(call.arguments) for call in broken.message.tool_calls] == [{"_raw": '{"query": "te'}]
    assert isinstance(text, Reply)
    assert text.message == Message(role="assistant", content="said none")
    assert (text.stopped, text.raw, text.logprob, text.sampled) == ("stop", "said none", None, None)
    assert text.tokens == 3


def test_a_reply_at_its_limit_and_a_conversation_past_its_own(tmp_path: Path) -> None:
    with FakeProvider(context=100) as provider, opened(provider.base_url, tmp_path) as (model, ledger):
        cut, long = hold_all(model, [make_ask("short", max_tokens=2), make_ask("long " * 50)])
        hold_all(model, [make_ask("long " * 50)])
        assert ledger.summary()[0].from_cache == 1
    assert isinstance(cut, Reply)
    assert (cut.message, cut.stopped, len(cut.raw), cut.tokens) == (None, "length", 8, 2)
    assert isinstance(long, Reply)
    assert (long.message, long.stopped, long.raw, long.tokens) == (None, "context", "", 0)
    assert len(provider.requests) == 2


def test_log_probabilities_are_read(tmp_path: Path) -> None:
    with FakeProvider() as provider, opened(provider.base_url, tmp_path) as (model, _):
        reply = answer_one(model, make_ask("one", "judge", logprobs=True))
    assert reply.sampled is not None
    assert "".join(token.text for token in reply.sampled) == reply.raw
    assert reply.sampled[0].top == {reply.sampled[0].text: -0.25, "other": -1.5}
    assert reply.logprob == pytest.approx(-0.25 * len(reply.sampled))


def test_calls_as_text_stop_where_results_would_begin(tmp_path: Path) -> None:
    made_up = '<calls>\n{"name": "search", "arguments": {"query": "tea"}}\n</calls>\n<results>invented</results>'
    provider = FakeProvider(answers=lambda _: made_up)
    with provider, opened(provider.base_url, tmp_path, calls="text") as (model, _):
        reply = answer_one(model, make_ask("find tea", tools=(SEARCH,)))
    assert reply.message is not None
    assert [(call.name, dict(call.arguments)) for call in reply.message.tool_calls] == [("search", {"query": "tea"})]
    assert "invented" not in reply.raw
    (sent,) = provider.requests
    assert "tools" not in sent
    assert "</calls>" in sent["stop"]
    assert "Finds things." in sent["messages"][0]["content"]


def test_a_server_without_tool_calls_is_asked_in_text(tmp_path: Path) -> None:
    provider = FakeProvider(answers=lambda _: '<calls>\n{"name": "search", "arguments": {}}\n', without=("tools",))
    with provider, opened(provider.base_url, tmp_path, connections=1) as (model, ledger):
        replies = hold_all(model, [make_ask(f"{number}", tools=(SEARCH,)) for number in range(3)])
        assert ledger.summary()[0].in_doubt == 0
    assert all(isinstance(one, Reply) and one.message and one.message.tool_calls for one in replies)
    assert [("tools" in one) for one in provider.requests] == [True, False, False, False]
    native = tmp_path / "native"
    with provider, opened(provider.base_url, native, calls="native") as (model, _):
        found = hold_all(model, [make_ask("0", tools=(SEARCH,))])[0]
    assert "does not support tools" in refused(found)
    assert "set its calls to 'auto' or 'text'" in refused(found)


@pytest.mark.parametrize(("field", "asked"), [("logprobs", {"logprobs": True}), ("response_format", {"schema": {}})])
def test_what_a_server_is_without_is_not_asked_for_again(field: str, asked: dict[str, Any], tmp_path: Path) -> None:
    if "schema" in asked:
        asked = {"schema": {"type": "object", "properties": {"score": {"type": "integer"}}}}
    with FakeProvider(without=(field,)) as provider, opened(provider.base_url, tmp_path, connections=1) as (model, _):
        replies = hold_all(model, [make_ask(f"{number}", "judge", **asked) for number in range(2)])
    assert all(isinstance(one, Reply) and one.sampled is None for one in replies)
    assert [field in one for one in provider.requests] == [True, False, False]


def test_one_request_that_is_not_taken_leaves_the_others(tmp_path: Path) -> None:
    provider = FakeProvider(without=("stop",))
    with provider, opened(provider.base_url, tmp_path, calls="text") as (model, ledger):
        refused, fine = hold_all(model, [make_ask("one", tools=(SEARCH,)), make_ask("two")])
        assert (ledger.summary()[0].calls, ledger.summary()[0].in_doubt) == (1, 0)
    assert isinstance(fine, Reply)
    assert isinstance(refused, ProviderError)
    assert (refused.fault, refused.is_data) == ("rejected", True)


def test_equal_requests_are_one_call_and_replicates_are_not(tmp_path: Path) -> None:
    with FakeProvider(delay=0.05) as provider, opened(provider.base_url, tmp_path) as (model, ledger):
        same = [make_ask("one") for _ in range(5)]
        first = hold_all(model, same)
        assert len(provider.bill) == 1
        others = [make_ask("one", replicate=(1,)), make_ask("one", temperature=0.5), make_ask("one", max_tokens=9)]
        hold_all(model, [*same, *others, make_ask("one", tools=(SEARCH,)), make_ask("one", logprobs=True)])
        assert len(provider.bill) == 6
        assert (ledger.summary()[0].calls, ledger.summary()[0].from_cache) == (6, 9)
    assert len({id(one) for one in first}) == 5
    assert len({str(one) for one in first}) == 1


def test_tokens_and_money_are_added_up(tmp_path: Path) -> None:
    provider = FakeProvider()
    with provider, opened(provider.base_url, tmp_path, input_price=2.0, output_price=10.0) as (model, ledger):
        replies = hold_all(model, [make_ask(f"{number}", "emulator") for number in range(4)])
        (spent,) = ledger.summary()
    tokens = sum(one.tokens for one in replies if isinstance(one, Reply))
    assert (spent.speaker, spent.model, spent.calls, spent.output_tokens) == ("emulator", NAME, 4, tokens)
    assert spent.input_tokens == 4
    assert spent.cost == pytest.approx((4 * 2.0 + tokens * 10.0) / 1e6)


# --- what is refused -----------------------------------------------------------------------------------------------


def refused(found: Any) -> str:
    """The line of an error that no other request would escape."""
    assert isinstance(found, ProviderError)
    assert found.fault == "refused"
    line = str(found)
    assert "\n" not in line
    assert line.startswith(f"{NAME} at ")
    return line


def test_a_wrong_key_ends_everything_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY_VARIABLE", SECRET)
    provider = FakeProvider(key="another")
    with provider, opened(provider.base_url, tmp_path, key_env="FAKE_KEY_VARIABLE", connections=1) as (model, ledger):
        found = hold_all(model, [make_ask(f"{number}") for number in range(5)])
        assert ledger.summary() == ()
    assert len(provider.requests) == 1
    assert provider.keys == [SECRET]
    for one in found:
        assert "HTTP 401" in refused(one)
        assert "key_env" in refused(one)
        assert SECRET not in str(one)


def test_a_dead_endpoint_is_tried_again_and_then_refused(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with opened(f"http://127.0.0.1:{port}/v1", tmp_path) as (model, ledger):
        line = refused(hold_all(model, [make_ask("one")])[0])
        assert ledger.summary() == ()
    assert "no connection" in line
    assert "3 attempts" in line
    assert "check base_url" in line


def test_an_unknown_host_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with opened("https://models.example.invalid/v1", tmp_path) as (model, _):
        line = refused(hold_all(model, [make_ask("one")])[0])
    assert "models.example.invalid" in line
    assert "Name or service not known" in line


def test_a_redirect_is_not_followed_with_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_KEY_VARIABLE", SECRET)
    elsewhere, provider = FakeProvider(), FakeProvider()
    with elsewhere, provider, opened(provider.base_url, tmp_path, key_env="FAKE_KEY_VARIABLE") as (model, _):
        provider.redirect = elsewhere.base_url
        line = refused(hold_all(model, [make_ask("one")])[0])
    assert "redirects" in line
    assert len(provider.requests) == 1
    assert elsewhere.requests == []


@pytest.mark.parametrize(
    ("name", "variables"),
    [
        ("openai/gpt-4o", ("OPENAI_API_KEY",)),
        ("anthropic/some-model", ("ANTHROPIC_API_KEY",)),
        ("anthropic/some-model", ("ANTHROPIC_AUTH_TOKEN",)),
        ("anthropic/some-model", ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN")),
        (NAME, ("FAKE_API_KEY",)),
    ],
)
def test_a_providers_own_key_does_not_go_to_an_address_of_the_study(
    name: str, variables: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in variables:
        monkeypatch.setenv(variable, SECRET)
    monkeypatch.setenv("MY_SERVERS_KEY", "the-key-that-is-meant")
    with FakeProvider() as provider:
        for place, (key_env, sent) in enumerate([(None, "no-key"), ("MY_SERVERS_KEY", "the-key-that-is-meant")]):
            # The path of the provider's own dialect is unknown here; what matters is what came with it.
            with opened(provider.base_url, tmp_path / str(place), name=name, key_env=key_env) as (model, _):
                hold_all(model, [make_ask("one")])
            assert provider.keys == [sent]
            provider.keys.clear()


@pytest.mark.parametrize("name", ["openai/gpt-4o", "vllm/some-model", "ollama/some-model", "openrouter/a/some-model"])
def test_no_provider_asks_or_goes_elsewhere_by_itself(name: str, tmp_path: Path) -> None:
    async def go(model: Any) -> list[Any]:
        reply = await model.ask(make_ask("one", tools=(SEARCH,), logprobs=True))
        api = model._client.model.api
        return [reply.raw[:7], api.client.max_retries, api.client._client.follow_redirects]

    with FakeProvider() as provider, opened(provider.base_url, tmp_path, name=name) as (model, _):
        assert asyncio.run(go(model)) == ["answer ", 0, False]
    assert len(provider.bill) == len(provider.requests) == 1
    provider = FakeProvider(faults={0: "500", 1: "500"})
    with provider, opened(provider.base_url, tmp_path / "again", name=name, retries=0) as (model, _):
        assert isinstance(hold_all(model, [make_ask("one")])[0], ProviderError)
    assert len(provider.requests) == 1


def test_an_address_that_is_not_allowed_is_an_error_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = r"endpoints\.openai-api/fake/some-model: endpoint not allowed"
    with pytest.raises(StudyError, match=told), opened("http://169.254.169.254/v1", tmp_path):
        pass
    # Also where the address comes from the provider's own variable.
    monkeypatch.setenv("FAKE_BASE_URL", "http://10.0.0.1/v1")
    monkeypatch.setenv("FAKE_API_KEY", SECRET)
    with opened(None, tmp_path) as (model, _), pytest.raises(StudyError, match="endpoint not allowed"):
        answer_one(model, make_ask("one"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("groq/some-model", "pip install groq"),
        ("no-such-provider/some-model", "no-such-provider"),
        ("openai/some-model", "OPENAI_API_KEY"),
    ],
)
def test_what_is_missing_for_a_provider_is_told(
    name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with opened(None, tmp_path, name=name) as (model, _), pytest.raises(StudyError) as caught:
        answer_one(model, make_ask("one"))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "[bold]" not in str(caught.value)


def test_a_schema_that_cannot_be_told_is_an_error_of_its_request(tmp_path: Path) -> None:
    odd = replace(SEARCH, parameters={"type": "object", "properties": {"query": {"type": "no-such-type"}}})
    with FakeProvider() as provider, opened(provider.base_url, tmp_path) as (model, ledger):
        found, fine = hold_all(model, [make_ask("one", tools=(odd,)), make_ask("two")])
        assert (ledger.summary()[0].calls, ledger.summary()[0].in_doubt) == (1, 0)
    assert isinstance(found, ProviderError)
    assert found.fault == "rejected"
    assert "cannot be told" in str(found)
    assert isinstance(fine, Reply)
    assert len(provider.requests) == 1


# --- budgets -------------------------------------------------------------------------------------------------------


def test_budget_0_calls_nothing(tmp_path: Path) -> None:
    with FakeProvider() as provider, opened(provider.base_url, tmp_path, budget=Budget(max_calls=0)) as (model, _):
        found = hold_all(model, [make_ask("one")])[0]
    assert isinstance(found, BudgetSpent)
    assert "--max-calls" in str(found)
    assert provider.requests == []


def test_a_budget_reached_with_many_in_flight_and_gone_on_from(tmp_path: Path) -> None:
    asks = [make_ask(f"{number}") for number in range(30)]
    with FakeProvider(delay=0.02) as provider:
        with opened(provider.base_url, tmp_path, budget=Budget(max_calls=11), connections=8) as (model, _):
            found = hold_all(model, asks)
        replies = [one for one in found if isinstance(one, Reply)]
        assert len(replies) == len(provider.bill) == 11
        assert all(isinstance(one, BudgetSpent) for one in found if not isinstance(one, Reply))
        with opened(provider.base_url, tmp_path, budget=Budget(max_calls=30), connections=8) as (model, ledger):
            assert all(isinstance(one, Reply) for one in hold_all(model, asks))
            assert ledger.summary()[0].from_cache == 11
    assert len(provider.bill) == 30


# --- secrets, clients, crashes -------------------------------------------------------------------------------------


def test_a_key_is_in_no_file_no_error_and_no_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAKE_KEY_VARIABLE", SECRET)
    caplog.set_level(logging.DEBUG)
    told: list[str] = []
    for place, (key, fault) in enumerate([(SECRET, "500"), (SECRET, "reset"), (SECRET, "html"), ("another", "500")]):
        provider = FakeProvider(key=key, faults={0: fault, 1: fault, 2: fault})
        path = tmp_path / str(place)
        with provider, opened(provider.base_url, path, key_env="FAKE_KEY_VARIABLE", retries=1) as (model, ledger):
            told += [str(one) for one in hold_all(model, [make_ask("one"), make_ask("two")])]
            told += [repr(model), repr(ledger), str(ledger.summary())]
        assert SECRET in provider.keys
    files = [one for one in tmp_path.rglob("*") if one.is_file()]
    assert len(files) >= 4
    assert all(SECRET.encode() not in one.read_bytes() for one in files)
    assert any("one" in line for line in caplog.text.splitlines())
    assert SECRET not in caplog.text
    assert SECRET not in "".join(told)


def test_clients_end_with_their_event_loop(tmp_path: Path) -> None:
    """Warnings of sockets left open are errors here."""
    with FakeProvider() as provider, opened(provider.base_url, tmp_path) as (model, _):
        for place in range(4):
            assert answer_one(model, make_ask(f"{place}")).stopped == "stop"
            assert model._client is not None
            assert model._client.model.api.http_client.is_closed


def test_what_a_call_leaves_in_memory_does_not_grow(tmp_path: Path) -> None:
    from inspect_ai.log import transcript

    async def go(model: Any) -> int:
        kept = transcript()  # where Inspect records what the tasks of this context do
        for place in range(5):
            await model.ask(make_ask(f"{place}"))
        return len(kept.events)

    # In a context of its own: a test before this one in the same process may have left events in its context.
    with FakeProvider() as provider, opened(provider.base_url, tmp_path) as (model, _):
        assert contextvars.Context().run(lambda: asyncio.run(go(model))) == 0


def test_kill_and_resume_repeats_no_answered_call(tmp_path: Path) -> None:
    connections, calls = 4, 40
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from builders.remote_samples import hold_all, make_ask, opened\n"
        f"with opened(sys.argv[1], Path(sys.argv[2]), connections={connections}) as (model, _):\n"
        f"    hold_all(model, [make_ask(f'{{number}}') for number in range({calls})])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    with FakeProvider(delay=0.02) as provider:
        command = [sys.executable, "-c", script, provider.base_url, str(tmp_path)]
        with subprocess.Popen(command, env=environment) as started:
            deadline = time.monotonic() + 60
            while len(provider.bill) < calls // 2 and time.monotonic() < deadline:
                time.sleep(0.005)
            os.kill(started.pid, signal.SIGKILL)
        billed = len(provider.bill)
        assert calls // 2 <= billed < calls
        with opened(provider.base_url, tmp_path, connections=connections) as (model, ledger):
            (before,) = ledger.summary()
            found = hold_all(model, [make_ask(f"{number}") for number in range(calls)])
            (after,) = ledger.summary()
    assert all(isinstance(one, Reply) for one in found)
    assert before.in_doubt <= connections
    assert billed <= before.calls + before.in_doubt
    assert after.from_cache == before.calls
    repeats = {digest: times - 1 for digest, times in Counter(one.digest for one in provider.bill).items() if times > 1}
    assert sum(repeats.values()) <= before.in_doubt
    made = {request_digest(one) for one in provider.requests}
    assert {one.raw.removeprefix("answer ") for one in found if isinstance(one, Reply)} == {one[:12] for one in made}


# --- errors as such ------------------------------------------------------------------------------------------------


class Answered(Exception):
    """An error as clients of providers raise it."""

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        self.status_code = status
        self.response = type("Response", (), {"headers": headers or {}})()
        super().__init__(text)


@pytest.mark.parametrize(
    ("status", "text", "fault", "retry"),
    [
        (401, "no", "refused", "never"),
        (402, "pay", "refused", "never"),
        (403, "no", "refused", "never"),
        (404, "model not found", "refused", "never"),
        (429, "You exceeded your current quota: insufficient_quota", "refused", "never"),
        (400, "Your credit balance is too low to access the API", "refused", "never"),
        (400, "API key not valid. Please pass a valid API key.", "refused", "never"),
        (429, "slow down", "unavailable", "often"),
        (408, "timeout", "unavailable", "often"),
        (500, "oops", "unavailable", "often"),
        (529, "overloaded", "unavailable", "often"),
        (400, "bad tool schema", "rejected", "never"),
        (413, "too large", "rejected", "never"),
        (422, "no", "rejected", "never"),
    ],
)
def test_statuses_by_whose_fault_they_are(status: int, text: str, fault: str, retry: str) -> None:
    found = read_failure(Answered(status, text))
    assert (found.fault, found.retry, found.billed) == (fault, retry, False)


@pytest.mark.parametrize(
    "text",
    [
        "This model's maximum context length is 8192 tokens",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "The input token count exceeds the maximum number of tokens: input is too long",
        "Requested tokens exceed context window of 4096",
    ],
)
def test_a_conversation_that_is_too_long_is_known_by_its_error(text: str) -> None:
    assert read_failure(Answered(400, text)).too_long
    assert not read_failure(Answered(400, "max_tokens must be positive")).too_long


@pytest.mark.parametrize(
    ("header", "wait"),
    [("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("99999", 300.0), ("soon", None), ("nan", None), ("inf", None), ("", None)],
)
def test_the_wait_that_a_server_asks_for(header: str, wait: float | None) -> None:
    assert read_failure(Answered(429, "slow down", {"retry-after": header})).wait == wait


def test_a_wait_until_a_date() -> None:
    from email.utils import formatdate

    wait = read_failure(Answered(503, "later", {"retry-after": formatdate(time.time() + 30, usegmt=True)})).wait
    assert wait is not None
    assert 20 < wait <= 31


def test_texts_of_errors_are_short_clean_lines() -> None:
    text = read_failure(Answered(500, f"a\nb\x1b[31m {'long ' * 500} sk-abcdefghijklmnop")).text
    assert len(text) < 400
    assert text.isprintable()
    assert "sk-abc" not in read_failure(Answered(500, "key sk-abcdefghijklmnop")).text
