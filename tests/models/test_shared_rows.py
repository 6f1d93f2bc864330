"""What conversations open alike is computed once: the same replies, whoever else asks, the same bits whenever asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.chat_samples import SEARCH, make_base
from rounding import EXACT, additions, rounding, within

from holdfast.models import Ask, Conversation, Reply
from holdfast.models.local import shared
from holdfast.models.local.local import LocalModel
from holdfast.records import Message
from holdfast.rollout.dialogues import Dialogue, hold

transformers = pytest.importorskip("transformers")
os.environ["HF_HUB_OFFLINE"] = "1"
FAMILIES = (
    "You keep the books of a tea house and answer in few words, whatever the guests may want of you today.",
    "You water plants, and nothing else: say which plant is next, how much it takes, and when it was watered last.",
)
TEXTS = ("tea", "what is it made of? leaves and hot water", "alpha beta", "gamma")
LIMIT = 8


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp(request.param) / "base", architecture=request.param)


@pytest.fixture(scope="module")
def narrow(base: Path) -> LocalModel:
    return LocalModel(base, precision="fp32")


@pytest.fixture(autouse=True)
def fresh(narrow: LocalModel) -> None:
    narrow.decoder.clear()


def asks(numbers: Sequence[int], *, temperature: float = 1.0) -> list[Ask]:
    """Requests of both families, some of them repeated; a number says all of a request."""
    return [
        Ask(
            speaker="agent",
            conversation=Conversation(
                messages=(
                    Message(role="system", content=FAMILIES[number % 2]),
                    Message(role="user", content=TEXTS[number // 2 % len(TEXTS)]),
                ),
                tools=(SEARCH,) if number % 2 else (),
            ),
            temperature=temperature,
            max_tokens=LIMIT,
            rng=np.random.default_rng(number),
        )
        for number in numbers
    ]


def go_on(asked: Sequence[Ask], replies: Sequence[Reply]) -> list[Ask]:
    """The same conversations a turn later, with what was replied."""
    later = []
    for one, reply in zip(asked, replies, strict=True):
        more = (Message(role="assistant", content=reply.raw), Message(role="user", content="and then?"))
        later.append(replace(one, conversation=replace(one.conversation, messages=(*one.conversation.messages, *more))))
    return later


def talk(model: LocalModel, numbers: Sequence[int], **options: Any) -> list[list[Reply]]:
    """Two turns of each conversation, as a set of dialogues has them."""
    model.forget()
    first = asks(numbers, **options)
    replies = model.reply(first)
    return [replies, model.reply(go_on(first, replies))]


def flat(turns: Sequence[Sequence[Reply]]) -> list[tuple[str, float]]:
    return [(reply.raw, reply.logprob or 0.0) for replies in turns for reply in replies]


@pytest.mark.usefixtures("in_64_bits")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_replies_are_those_without_anything_shared(base: Path, temperature: float) -> None:
    numbers = [0, 1, 2, 3, 4, 5, 8, 9, 14]
    model, plain = LocalModel(base, precision="fp32"), LocalModel(base, precision="fp32", cache_tokens=0)
    ours, theirs = (flat(talk(one, numbers, temperature=temperature)) for one in (model, plain))
    assert model.decoder.unshared is None
    assert [raw for raw, _ in ours] == [raw for raw, _ in theirs]
    assert [value for _, value in ours] == pytest.approx([value for _, value in theirs], rel=EXACT)
    assert model.decoder.prefilled < 0.5 * plain.decoder.prefilled
    # And those of transformers, which shares nothing, from the prompts of the second turn.
    if temperature == 0:
        network = transformers.AutoModelForCausalLM.from_pretrained(base)
        first = asks(numbers[:3], temperature=0.0)
        for one, (raw, _) in zip(go_on(first, talk(plain, numbers[:3], temperature=0.0)[0]), ours[9:12], strict=True):
            prompt = torch.tensor([model.chat.prompt_ids(one.conversation)])
            out = network.generate(prompt, do_sample=False, max_new_tokens=LIMIT)[0, prompt.shape[1] :]
            assert model.chat.decode(out.tolist()).startswith(raw)


def test_in_32_bits_they_differ_by_rounding(base: Path, narrow: LocalModel) -> None:
    plain = LocalModel(base, precision="fp32", cache_tokens=0)
    ours, theirs = (flat(talk(one, range(8), temperature=0.0)) for one in (narrow, plain))
    tolerance = rounding(additions(64, 2, 128, 360, 120))
    for (raw, value), (other, expected) in zip(ours, theirs, strict=True):
        assert raw == other
        assert within(abs(value - expected) / abs(expected), tolerance)


@pytest.mark.usefixtures("in_64_bits")
def test_a_conversation_does_not_depend_on_the_others(base: Path) -> None:
    model = LocalModel(base, precision="fp32")
    numbers = [0, 3, 5, 6, 9, 2]
    together = talk(model, numbers)
    for place, number in enumerate(numbers):
        model.decoder.clear()
        model.rows = 1 + place % 3
        alone, backwards = talk(model, [number]), talk(model, [1, number, 7])
        for turn in range(2):
            for found in (alone[turn][0], backwards[turn][1]):
                assert found.raw == together[turn][place].raw
                assert found.logprob == pytest.approx(together[turn][place].logprob, rel=EXACT)


def test_a_batch_has_the_same_bits_whatever_was_asked_before(base: Path, narrow: LocalModel) -> None:
    """So a run that was stopped and goes on ends in the very numbers of one that was not."""
    numbers = [0, 1, 2, 3, 9]
    expected = flat(talk(narrow, numbers))
    longer = go_on(asks(numbers), narrow.reply(asks(numbers)))
    narrow.reply(longer)  # longer conversations that begin as the next ones do
    assert flat(talk(narrow, numbers)) == expected
    narrow.decoder.clear()
    assert flat(talk(narrow, numbers)) == expected, "openings computed again"
    # Room for one of both openings: they drive each other out.
    size = max(len(narrow.chat.prompt_ids(one.conversation)) for one in asks([0, 1]))
    small = LocalModel(base, precision="fp32", cache_tokens=2 * size)
    assert flat(talk(small, numbers)) == expected and flat(talk(small, [8, *numbers])[:1])[1:] != []
    assert sum(map(len, small.decoder.openings._entries)) <= size


def test_dialogues_after_others_are_those_of_a_model_that_was_just_opened(base: Path, narrow: LocalModel) -> None:
    """A batch of episodes is what it is, whether those before it ran in this process or in one that ended."""

    def converse(first: Ask) -> Dialogue[list[tuple[str, float | None]]]:
        heard = []
        for _ in range(2):
            reply = yield first
            heard.append((reply.raw, reply.logprob))
            [first] = go_on([first], [reply])
        return heard

    batches = ([0, 1, 2, 3], [2, 3, 8, 9])  # the same luck for some, so the same beginnings
    whole = [hold([converse(one) for one in asks(batch)], {"agent": narrow}) for batch in batches]
    opened = LocalModel(base, precision="fp32")
    assert hold([converse(one) for one in asks(batches[1])], {"agent": opened}) == whole[1]


def test_an_opening_is_what_users_cannot_change(narrow: LocalModel) -> None:
    first, other = asks([0, 2])
    ids = [narrow.chat.prompt_ids(one.conversation) for one in (first, other)]
    rows = [narrow._row(one) for one in (first, other)]
    assert rows[0].opening == rows[1].opening > 16
    assert ids[0][: rows[0].opening] == ids[1][: rows[1].opening]
    assert FAMILIES[0][-20:] in narrow.chat.decode(ids[0][: rows[0].opening])
    assert "tea" not in narrow.chat.decode(ids[0][rows[0].opening - 3 : rows[0].opening])
    [bare] = [replace(first, conversation=Conversation(messages=first.conversation.messages[1:]))]
    assert narrow._row(bare).opening == 0


@pytest.mark.parametrize(
    ("fault", "told"), [("refuses", "its attention has scaling"), ("errs", "it computes otherwise over them")]
)
def test_an_attention_that_is_not_served_is_named_and_never_wrong(
    base: Path, narrow: LocalModel, fault: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = flat(talk(narrow, range(6), temperature=0.0))
    if fault == "refuses":
        monkeypatch.setattr(shared, "_FOREIGN", ("scaling",))
    else:
        right = shared.SharedRows.attend
        monkeypatch.setattr(shared.SharedRows, "attend", lambda *given: 1.01 * right(*given))
    model = LocalModel(base, precision="fp32")
    found = flat(talk(model, range(6), temperature=0.0))
    assert told in (model.decoder.unshared or "")
    assert [raw for raw, _ in found] == [raw for raw, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-4)
    assert model.model.config._attn_implementation == "sdpa"


def test_long_replies_are_sampled_fewer_at_once(narrow: LocalModel) -> None:
    rows = [narrow._row(one) for one in asks(range(8))]
    assert narrow._count_fitting(rows * 20) == narrow.rows
    for row in rows:
        row.limit = 1 << 14
    assert narrow._count_fitting(rows * 20) == 16
