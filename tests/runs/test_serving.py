"""A server of an ordinary model directory, over HTTP: the tiny agent behind it does what it does in this process."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from builders import tiny_office
from builders.remote_samples import SEARCH, answer_one, make_ask, opened
from builders.serving import transformers_server

from holdfast.models import Conversation, chat_messages, chat_tools
from holdfast.models.fakes import FakeProvider
from holdfast.models.tiny.chat import response_template
from holdfast.models.tiny.model import TinyModel
from holdfast.records import Ending
from holdfast.records.errors import ProviderError
from holdfast.rollout.episode import Limits, roll_out
from holdfast.rollout.worlds.office import OfficeWorld
from holdfast.store import Store
from holdfast.suites.office import cases as office_cases

os.environ["HF_HUB_OFFLINE"] = "1"
CASES = 24
GREEDY = Limits(max_turns=8, max_tokens=16, temperature=0.0)


@pytest.fixture(scope="module")
def base(smoke_run):
    with Store(smoke_run) as store:
        return smoke_run / next(one.path for one in store.checkpoints() if not one.stages)


@pytest.fixture(scope="module")
def server(base, tmp_path_factory):
    with transformers_server(base, tmp_path_factory.mktemp("server") / "log") as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def episodes():
    return [(case, 0) for case in office_cases.generate(0, CASES, part="test")]


def play(agent, episodes):
    return roll_out({"agent": agent}, OfficeWorld(), episodes, checkpoint_id="served", rollout_seed=0, limits=GREEDY)


def plain(messages):
    """The messages without the ids that servers give to calls."""
    return [replace(one, tool_calls=tuple(replace(call, id="") for call in one.tool_calls)) for one in messages]


@pytest.mark.full
def test_a_greedy_rollout_over_http_is_the_one_in_process(base, server, episodes, tmp_path):
    with opened(server, tmp_path, name=f"openai-api/served/{base.name}", calls="native") as (model, _):
        served = play(model, episodes)
    ours = play(TinyModel.load(base), episodes)
    assert not [one for one in served if isinstance(one, ProviderError)]
    assert [plain(one.messages) for one in served] == [plain(one.messages) for one in ours]
    assert [(one.ending, one.calls, one.tokens, one.world_after) for one in served] == [
        (one.ending, one.calls, one.tokens, one.world_after) for one in ours
    ]
    assert all(one.ending is Ending.FINISHED for one in ours) and sum(one.calls for one in ours) >= CASES


@pytest.mark.full
def test_a_client_of_the_protocol_gets_calls_as_calls(base, server, episodes):
    from openai import OpenAI

    case = episodes[0][0]
    talks = [Conversation(messages=case.messages, tools=case.tools)]
    asks = tiny_office.asks(talks, tiny_office.generators(1), temperature=0.0, max_tokens=16)
    (reply,) = TinyModel.load(base).reply(asks)
    with OpenAI(base_url=server, api_key="none", max_retries=0) as client:
        completion = client.chat.completions.create(
            model=base.name,
            messages=chat_messages(case.messages),
            tools=chat_tools(case.tools),
            temperature=0,
            max_tokens=16,
        )
    (choice,) = completion.choices
    (call,), (wanted,) = choice.message.tool_calls, reply.message.tool_calls
    assert choice.finish_reason == "tool_calls" and not choice.message.content
    assert (call.function.name, json.loads(call.function.arguments)) == (wanted.name, wanted.arguments)
    assert wanted.name in {tool.name for tool in case.tools}


def test_servers_are_not_asked_to_hold_calls_to_a_grammar(tmp_path):
    # vLLM refuses that of a directory whose calls are read by a response template.
    with FakeProvider() as provider, opened(provider.base_url, tmp_path) as (model, _):
        answer_one(model, make_ask("go on", tools=(SEARCH,)))
    (request,) = provider.requests
    assert [bool(tool["function"].get("strict")) for tool in request["tools"]] == [False]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_office.make_model(tmp_path_factory.mktemp("tiny") / "base"))


@pytest.mark.parametrize(
    ("text", "content", "call"),
    [
        ("<say> i did not find the memo <end>", "i did not find the memo", None),
        ("<say> i did not", "i did not", None),
        ("<say> <end>", None, None),
        ("memo <end>", None, None),
        ("<call> <end>", None, None),
        ("<call> check_file memo <end>", None, ("check_file", "memo")),
        ("<call> delete_file memo true <end>", None, ("delete_file", "memo true")),
        ("<call> check_file <end>", None, ("check_file", "")),
    ],
)
def test_the_response_template_reads_replies(tokenizer, text, content, call):
    ids = [tokenizer.convert_tokens_to_ids(word) for word in text.split()]
    tools = chat_tools(tiny_office.TOOLS)
    prompt = "<bos> <user> please delete the memo now <end>"
    found = tokenizer.parse_response(ids, response_template("item"), prefix=prompt, tools=tools)
    calls = [(one["function"]["name"], one["function"]["arguments"]) for one in found.get("tool_calls", [])]
    assert found.get("content") == content
    assert calls == ([] if call is None else [(call[0], {"item": call[1]})])


def test_a_directory_says_how_its_replies_are_read(base, tokenizer):
    written = json.loads((base / "tokenizer_config.json").read_text())
    assert written["response_template"] == response_template("object")
    assert tokenizer.response_template == response_template("_raw")
