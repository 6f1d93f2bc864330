"""Masks pick what they say, and data that cannot be learnt from is refused by name."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from builders import tiny_office as office

from holdfast.models.tiny.chat import OBS, TinyChat
from holdfast.records.errors import StudyError
from holdfast.training.encoding import (
    Encoded,
    check_demonstrations,
    check_pairs,
    check_sequences,
    check_template,
    score_picked,
)


@dataclasses.dataclass(frozen=True)
class Limits:
    vocabulary: int = 1000
    max_positions: int = 64


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return TinyChat.load(office.make_model(tmp_path_factory.mktemp("encoding") / "model"))


@pytest.fixture(scope="module")
def data(chat):
    return office.preferences(chat)


def test_masks_pick_what_they_say(data):
    item = data[1]["memo/careful"]
    agent, completion = item.picked("agent"), item.picked("completion")
    assert completion.tolist() == [False] * item.prompt + [True] * (len(item.ids) - item.prompt)
    assert np.array_equal(agent, item.agent) and agent.sum() < completion.sum()
    assert OBS in item.ids[completion] and OBS not in item.ids[agent]
    prompted = dataclasses.replace(item, prompt=len(item.ids) - 2)
    assert prompted.picked("agent").sum() == 2
    # The first token has no prediction, whatever the mask.
    bare = dataclasses.replace(item, prompt=0, agent=np.ones(len(item.ids), np.bool_))
    assert all(bare.picked(mask).tolist() == [False] + [True] * (len(item.ids) - 1) for mask in ("agent", "completion"))
    sequence = score_picked("memo", item, "agent")
    assert np.array_equal(sequence.weights, agent.astype(np.float32)) and sequence.ids is item.ids


def refused(pairs, encoded, words, loss_mask="agent"):
    with pytest.raises(StudyError, match=words):
        check_pairs(pairs, encoded, loss_mask)


def test_pairs_that_cannot_be_learnt_from_are_refused(data):
    pairs, encoded = data
    check_pairs(pairs, encoded, "agent")
    refused([], encoded, "there are no preference pairs")
    refused([dataclasses.replace(pairs[0], chosen="lost")], encoded, "case report: trajectory lost of a pair is not")
    for weight in (float("nan"), float("inf"), 0.0, -1.0):
        refused([dataclasses.replace(pairs[0], weight=weight)], encoded, f"case report: a pair has weight {weight}")

    def changed(**fields):
        return {**encoded, pairs[0].chosen: dataclasses.replace(encoded[pairs[0].chosen], **fields)}

    item = encoded[pairs[0].chosen]
    empty = changed(ids=item.ids[: item.prompt], agent=item.agent[: item.prompt])
    for mask in ("agent", "completion"):
        refused(pairs, empty, "case report: trajectory report/careful has an empty completion", mask)
    silent = changed(agent=np.zeros(len(item.ids), np.bool_))
    refused(pairs, silent, "case report: trajectory report/careful has no token to learn from")
    check_pairs(pairs, silent, "completion")
    other = changed(ids=np.where(np.arange(len(item.ids)) == 2, 9, item.ids))
    words = "case report: trajectories report/careful and report/careless do not share their prompt"
    refused(pairs, other, words)
    refused(pairs, changed(prompt=item.prompt - 1), words)


def test_sequences_that_a_model_cannot_read_are_refused(data):
    item = data[1]["memo/careful"]
    size = len(item.ids)
    named = [("case memo, trajectory x", item)]
    check_sequences(named, Limits(max_positions=size))
    for limits, words in (
        (Limits(max_positions=size - 1), f"case memo, trajectory x: {size} tokens, but the model reads {size - 1}"),
        (Limits(max_positions=item.prompt), f"trajectory x: its prompt has {item.prompt} tokens, but the model reads"),
        (Limits(vocabulary=int(item.ids.max())), f"trajectory x: token id {item.ids.max()} is outside the model's voc"),
    ):
        with pytest.raises(StudyError, match=words):
            check_sequences(named, limits)
    negative = dataclasses.replace(item, ids=item.ids - 5)
    with pytest.raises(StudyError, match=r"token id -[1-5] is outside"):
        check_sequences([("x", negative)], Limits())


def test_demonstrations_that_cannot_be_learnt_from_are_refused(chat):
    good = office.demonstrations(chat)
    check_demonstrations(dict(zip("abcdefgh", good, strict=False)), Limits())
    with pytest.raises(StudyError, match="no demonstrations"):
        check_demonstrations({}, Limits())
    idle = Encoded(ids=np.ones(5, np.int64), agent=np.zeros(5, np.bool_), prompt=1)
    with pytest.raises(StudyError, match="line 7 has no token to learn from"):
        check_demonstrations({"line 3": good[0], "line 7": idle}, Limits())
    long = Encoded(ids=np.ones(65, np.int64), agent=np.ones(65, np.bool_), prompt=1)
    with pytest.raises(StudyError, match="line 9: 65 tokens, but the model reads 64"):
        check_demonstrations({"line 8": good[0], "line 9": long}, Limits())


class Hub:
    """A chat format of a Jinja template, as model directories bring them."""

    def __init__(self, template):
        import jinja2

        self._template = jinja2.Environment(autoescape=False).from_string(template)

    def encode(self, messages, tools=()):
        shown = [{"role": message.role, "content": message.content} for message in messages]
        ids = list(self._template.render(messages=shown).encode())
        return ids, [False] * len(ids)


def test_a_template_that_drops_the_system_message_is_refused(chat):
    opening = office.opening("memo")
    check_template(chat, "memo", opening, office.TOOLS)
    check_template(Hub("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"), "memo", opening)
    users = Hub("{% for m in messages if m.role == 'user' %}<user>{{ m.content }}{% endfor %}")
    with pytest.raises(StudyError, match="case memo: the chat template drops the system message; put it into the fir"):
        check_template(users, "memo", opening)
    # Nothing is lost where nothing was said.
    check_template(users, "memo", opening[1:])
    check_template(users, "memo", [dataclasses.replace(opening[0], content=" "), opening[1]])
