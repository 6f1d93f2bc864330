"""A provider that breaks in every way: the right class each, nothing billed unseen, no reply made up."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
from builders.remote_samples import hold_all, make_ask, opened

from holdfast.models import Reply, Speaker
from holdfast.models.fakes import FAULTS, POSITIONS, FakeProvider, faults_at, request_digest
from holdfast.records.errors import ProviderError

SPEAKERS: tuple[Speaker, ...] = get_args(Speaker)
HARMLESS = ("wrong-model", "nan-logprob")  # replies all the same
SLOW = ("hang", "slow-drip")
UNBILLED = ("429", "429-retry-after", "429-garbage-retry-after", "500", "502", "503", "529")  # and known to be
CALLS = 8
BURST_CALLS = 26
FULL = tuple(product(FAULTS, POSITIONS, SPEAKERS))
# Each kind once, so that each position and each speaker meets several.
SOME = tuple((kind, POSITIONS[n % 4], SPEAKERS[n % 3]) for n, kind in enumerate(FAULTS))


def check_fault(kind: str, position: str, speaker: Speaker, path: Path) -> None:
    """One round with the fault, one after it is gone."""
    asks = [
        make_ask(f"question {number}", speaker, logprobs=kind == "nan-logprob")
        for number in range(BURST_CALLS if position == "burst" else CALLS)
    ]
    settings: dict[str, Any] = {"connections": 4, "timeout": 1.0 if kind in SLOW else 20}
    provider = FakeProvider(faults=faults_at(kind, position, len(asks)))
    with provider, opened(provider.base_url, path, **settings) as (model, ledger):
        first = hold_all(model, asks)
        spent, billed = ledger.summary()[0], len(provider.bill)
        again = hold_all(model, asks)
        assert ledger.summary()[0].from_cache == sum(isinstance(one, Reply) for one in first)
    check_round(first, asks, provider, position, kind)
    replies = [one for one in first if isinstance(one, Reply)]
    assert len(provider.bill) == billed + len(asks) - len(replies)
    assert spent.calls == len(replies)
    assert spent.speaker == speaker
    assert billed <= spent.calls + spent.in_doubt
    if kind in (*UNBILLED, *HARMLESS):
        assert (billed, spent.in_doubt) == (len(replies), 0)
    else:
        assert 1 <= spent.in_doubt <= len(provider.faults)
    # What was answered stays; the rest is asked once more, and only that.
    assert all(isinstance(one, Reply) for one in again)
    assert [two for one, two in zip(first, again, strict=True) if isinstance(one, Reply)] == replies


def check_round(first: list[Any], asks: list[Any], provider: FakeProvider, position: str, kind: str) -> None:
    """Every reply is one that the provider made for this very request; every error an outage."""
    made = {one["messages"][0]["content"]: f"answer {request_digest(one)[:12]}" for one in provider.requests}
    billed = {charge.digest[:12] for charge in provider.bill}
    errors = [one for one in first if isinstance(one, ProviderError)]
    for ask, found in zip(asks, first, strict=True):
        if isinstance(found, Reply):
            assert found.raw == made[ask.conversation.messages[0].content]
            assert found.raw.removeprefix("answer ") in billed
    assert {error.fault for error in errors} <= {"unavailable"}
    assert position == "burst" or not errors
    if kind == "nan-logprob":
        distributions = [one.sampled for one in first]
        assert distributions.count(None) == sum(number < len(asks) for number in provider.faults)
        assert all(one.logprob is None for one in first if one.sampled is None)


@pytest.mark.parametrize(("kind", "position", "speaker"), SOME)
def test_a_fault_costs_no_reply_and_no_money(kind: str, position: str, speaker: Speaker, tmp_path: Path) -> None:
    check_fault(kind, position, speaker, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize(("kind", "position", "speaker"), [one for one in FULL if one not in SOME])
def test_every_fault_everywhere(kind: str, position: str, speaker: Speaker, tmp_path: Path) -> None:
    check_fault(kind, position, speaker, tmp_path)


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind not in HARMLESS])
def test_an_outage_that_lasts_is_an_error_and_never_recorded(kind: str, tmp_path: Path) -> None:
    provider = FakeProvider(faults=dict.fromkeys(range(1000), kind))
    with provider, opened(provider.base_url, tmp_path, retries=2, timeout=1 if kind in SLOW else 20) as (model, ledger):
        found = hold_all(model, [make_ask("one")])[0]
        spent = ledger.summary()
    assert isinstance(found, ProviderError)
    assert found.fault == "unavailable"
    assert "some-model" in str(found)
    assert "127.0.0.1" in str(found)
    assert "\n" not in str(found)
    assert len(provider.requests) == 3 or kind in SLOW
    assert sum(one.calls for one in spent) == 0
    assert sum(one.in_doubt for one in spent) == (0 if kind in UNBILLED else 3)


def test_garbage_is_asked_for_again_but_not_forever(tmp_path: Path) -> None:
    provider = FakeProvider(faults=dict.fromkeys(range(1000), "empty-choices"))
    with provider, opened(provider.base_url, tmp_path, retries=50) as (model, _):
        assert isinstance(hold_all(model, [make_ask("one")])[0], ProviderError)
    assert len(provider.bill) == 3


def test_the_model_that_answered_is_told(tmp_path: Path) -> None:
    provider = FakeProvider(faults={1: "wrong-model"})
    with provider, opened(provider.base_url, tmp_path, connections=1) as (model, ledger):
        hold_all(model, [make_ask(f"{number}") for number in range(3)])
        assert ledger.summary()[0].served == ("another-model", "some-model")
