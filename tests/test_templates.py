"""Chat templates run in a sandbox: they render as in transformers, and what would do harm is refused in time."""

from __future__ import annotations

import os
import time

import pytest
from chat_samples import EPISODE, LLAMA, MARKED_QWEN, MISTRAL, OPENING, QWEN, SEARCH

from holdfast.errors import StudyError
from holdfast.models import chat_messages, chat_tools
from holdfast.models.templates import ChatTemplate, Rendering, try_out

os.environ["HF_HUB_OFFLINE"] = "1"
HELLO = Rendering(messages=[{"role": "user", "content": "hello"}])
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


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
    ours = ChatTemplate(source, TOKENS).render(Rendering(messages=messages, tools=tools, prompt=prompt))
    assert ours == theirs[0] and "Tea is a drink." in ours
    assert try_out(source, TOKENS, [Rendering(messages=messages, tools=tools, prompt=prompt)], "x") == [ours]


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


def test_a_template_without_an_end_is_stopped() -> None:
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    started = time.monotonic()
    with pytest.raises(StudyError, match="does not end within 2 seconds"):
        try_out(endless, {}, [HELLO], "dir")
    assert time.monotonic() - started < 30


def test_what_a_template_refuses_is_told() -> None:
    source = "{% if messages[0].role != 'user' %}{{ raise_exception('users first') }}{% endif %}ok"
    system = Rendering(messages=[{"role": "system", "content": ""}])
    assert try_out(source, {}, [HELLO, system], "dir") == ["ok", None]
    with pytest.raises(ValueError, match="users first"):
        ChatTemplate(source, {}).render(system)


def test_the_child_sees_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the sandbox had a hole, no key would be there to take."""
    from holdfast.models import templates

    seen: dict[str, str] = {}
    real = templates.subprocess.Popen

    def spy(*arguments: object, env: dict[str, str], **rest: object) -> object:
        seen.update(env)
        return real(*arguments, env=env, **rest)  # type: ignore[call-overload]

    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setattr(templates.subprocess, "Popen", spy)
    assert try_out("{{ messages[0].content }}!", {}, [HELLO], "dir") == ["hello!"]
    assert set(seen) == {"PYTHONPATH", "OMP_NUM_THREADS"}


def test_a_prompt_does_not_depend_on_the_day() -> None:
    source = "{{ strftime_now('%d %b %Y') }}"
    assert ChatTemplate(source, {}).render(HELLO) == "26 Jul 2024"
