"""Chat templates run in a sandbox: they render as in transformers, and what would do harm is refused in time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from builders.chat_samples import EPISODE, LLAMA, MARKED_QWEN, MISTRAL, OPENING, QWEN, SEARCH, write_tokenizer

from holdfast.models import Conversation, chat_messages, chat_tools
from holdfast.models.hub.chat import HubChat
from holdfast.models.hub.templates import ChatTemplate, Listed
from holdfast.records import Message
from holdfast.records.errors import StudyError

os.environ["HF_HUB_OFFLINE"] = "1"
HELLO = [{"role": "user", "content": "hello"}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def try_out(source: str, tokens: Mapping[str, str], conversations: Sequence[Listed], place: str) -> list[str | None]:
    """The text of every rendering, or None where the template refuses it."""
    template = ChatTemplate(source, tokens, place)
    return [template.try_out(one) for one in conversations]


@pytest.mark.parametrize("source", [QWEN, MARKED_QWEN, LLAMA, MISTRAL])
@pytest.mark.parametrize("prompt", [True, False])
def test_renders_as_transformers_does(source: str, prompt: bool) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    spoken = [*OPENING, *EPISODE] if source != MISTRAL else [OPENING[1], *EPISODE]
    messages = chat_messages(spoken)
    for entry in messages:
        for call in entry.get("tool_calls", ()):
            call["id"] = "call00000"
        entry["tool_call_id"] = "call00000"
    tools = chat_tools([SEARCH])
    theirs, _ = utils.render_jinja_template(
        [messages],
        tools=tools,
        chat_template=source,
        add_generation_prompt=prompt,
        **TOKENS,
    )
    ours = ChatTemplate(source, TOKENS).render(messages, tools, prompt=prompt)
    assert ours == theirs[0] and "Tea is a drink." in ours
    assert ChatTemplate(source, TOKENS).try_out(messages, tools, prompt=prompt) == ours


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ ''.__class__.__mro__ }}", "inner names"),
        ("{{ ''['__class__'] }}", "inner names"),
        ("{{ messages | attr('__class__') }}", "inner names"),
        ("{{ '{0.__class__}'.format(1) }}", "inner names"),
        ("{% set a = '__cl' + 'ass__' %}{{ (messages | attr(a)).mro }}", "sandbox forbids"),
        ("{% set _ = messages.append(1) %}", "sandbox forbids"),
        ("{{ 'a' * 10000000000 }}", "memory"),
        # Jinja computes these while it compiles, unless it is told not to.
        ("{{ ('A' * 30000000) * 40 }}", "memory"),
        ("{% if false %}{{ ('A' * 30000000) * 40 }}{% endif %}{{ 'a' * 3000000 }}", "million characters"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "memory"),
        ("{{ 'a' * 3000000 }}", "million characters"),
        ("{% for %}", "no Jinja template"),
        ("{% include 'x' %}{{ 'x' * 2000000 }}", None),
    ],
)
def test_harmful_templates_are_refused(source: str, reason: str | None) -> None:
    if reason is None:
        assert try_out(source, {}, [HELLO], "dir") == [None]
        return
    with pytest.raises(StudyError, match=f"dir: the chat template is refused.*{reason}"):
        try_out(source, {}, [HELLO], "dir")


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("source", [ENDLESS, "{{ 9 ** (9 ** 9) }}"])
def test_a_template_without_an_end_is_stopped(source: str) -> None:
    with pytest.raises(StudyError, match="dir: the chat template is refused: it does not end within 2 seconds"):
        try_out(source, {}, [HELLO], "dir")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [(ENDLESS, "does not end"), ("{{ 'A' * 30000000 * 40 }}", "memory"), ("{{ 'A' * 9000000 }}", "million characters")],
)
def test_what_a_template_does_in_long_conversations_alone_is_stopped_too(
    harm: str, reason: str, tmp_path: Path
) -> None:
    """It passes every trial; the rollout that meets it ends in one line that names the directory."""
    source = QWEN + "{% if messages | length > 6 %}" + harm + "{% endif %}"
    chat = HubChat(write_tokenizer(tmp_path / "late", source, "<|im_end|>", ["<|im_start|>"]))
    said = [OPENING[1], Message(role="assistant", content="Tea.")] * 4
    assert chat.prompt_ids(Conversation(messages=tuple(said[:5])))
    with pytest.raises(StudyError, match=rf"late: the chat template is refused: it .*{reason}"):
        chat.prompt_ids(Conversation(messages=tuple(said[:7])))
    assert chat.prompt_ids(Conversation(messages=tuple(said[:5]))), "others go on"


def test_many_threads_share_the_process() -> None:
    templates = [ChatTemplate(f"{number} {{{{ messages[0].content }}}}", {}) for number in range(3)]

    def render(number: int) -> str:
        said = [{"role": "user", "content": f"é{number}\n" * 9000}]
        return templates[number % 3].render(said)

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(render, range(40)))
    assert texts == [f"{number % 3} " + f"é{number}\n" * 9000 for number in range(40)]


def test_what_is_no_json_and_what_fails_inside_are_the_templates_own_reasons() -> None:
    broken = ChatTemplate("{{ '{}'.format() }}{{ 1 / 0 }}", {})
    with pytest.raises(ValueError, match="out of range"):
        broken.render(HELLO)
    with pytest.raises(ValueError, match="is no JSON"):
        broken.render([{"role": "user", "content": object()}])


def test_a_process_that_is_killed_is_started_anew() -> None:
    template = ChatTemplate("{{ messages[0].content }}", {})
    assert template.render(HELLO) == "hello"
    os.kill(children()[0], signal.SIGKILL)
    with pytest.raises(StudyError, match="ends the process that renders it"):
        template.render([{"role": "user", "content": "again"}])
    assert template.render([{"role": "user", "content": "again"}]) == "again"
    assert len(children()) == 1


def children() -> list[int]:
    """Ids of this process's children that render."""
    listed = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    return [int(one) for one in listed if b"holdfast.models.hub.templates" in Path(f"/proc/{one}/cmdline").read_bytes()]


def test_what_a_template_refuses_is_told() -> None:
    source = "{% if messages[0].role != 'user' %}{{ raise_exception('users first') }}{% endif %}ok"
    system = [{"role": "system", "content": ""}]
    assert try_out(source, {}, [HELLO, system], "dir") == ["ok", None]
    with pytest.raises(ValueError, match="users first"):
        ChatTemplate(source, {}).render(system)


def test_the_child_sees_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the sandbox had a hole, no key would be there to take."""
    from holdfast.models.hub import templates

    seen: dict[str, str] = {}
    real = templates.subprocess.Popen

    def spy(*arguments: object, env: dict[str, str], **rest: object) -> object:
        seen.update(env)
        return real(*arguments, env=env, **rest)  # type: ignore[call-overload]

    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setattr(templates.subprocess, "Popen", spy)
    templates.stop()
    assert try_out("{{ messages[0].content }}!", {}, [HELLO], "dir") == ["hello!"]
    assert set(seen) == {"PYTHONPATH", "OMP_NUM_THREADS"}


def test_a_prompt_does_not_depend_on_the_day() -> None:
    source = "{{ strftime_now('%d %b %Y') }}"
    assert ChatTemplate(source, {}).render(HELLO) == "26 Jul 2024"


def test_the_process_answers_line_by_line() -> None:
    """Its own protocol: a template's number, the template where it is new, what is asked; then an answer in JSON."""
    hello = {"source": "{{ bos }}{% generation %}{{ a }}{% endgeneration %}", "tokens": {"bos": "<s>"}}
    asked = [
        ("1", json.dumps(hello), {"a": "x"}),
        ("1", "", {"a": "y"}),  # which it knows
        ("2", json.dumps({"source": "{{ a.__class__ }}", "tokens": {}}), {"a": 1}),
        ("3", json.dumps({"source": "{% if %}", "tokens": {}}), {}),
        ("4", json.dumps({"source": "{{ raise_exception('no system') }}", "tokens": {}}), {}),
        ("5", json.dumps({"source": "{{ a.append(1) }}", "tokens": {}}), {"a": []}),
        ("6", json.dumps({"source": "{{ 'x' * 1500000 }}", "tokens": {}}), {}),
        ("7", json.dumps({"source": "{{ a | tojson }} {{ strftime_now('') }}", "tokens": {}}), {"a": {"é": 1}}),
    ]
    lines = "".join(f"{number}\n{begin}\n{json.dumps(one)}\n" for number, begin, one in asked)
    done = subprocess.run(
        [sys.executable, "-m", "holdfast.models.hub.templates"], input=lines, capture_output=True, text=True, check=True
    )
    ready, *answers = done.stdout.splitlines()
    found = [json.loads(one) for one in answers]
    assert ready == "ready" and len(found) == len(asked)
    assert found[0] == {"text": "<s>x"} and found[1] == {"text": "<s>y"} and found[7] == {"text": '{"é": 1} '}
    assert "reaches for Python's inner names" in found[2]["refused"] and "is no Jinja template" in found[3]["refused"]
    assert found[4] == {"reason": "no system"} and "what the sandbox forbids" in found[5]["refused"]
    assert "more than a million characters" in found[6]["refused"]
