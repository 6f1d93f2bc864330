"""What a gate of two models will take and can tell, before anything is carried out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from holdfast.decisions.gate.pairing import FAMILY
from holdfast.records.words import count_noun
from holdfast.runs.build import build
from holdfast.runs.forecast import forecast
from holdfast.stats.bounded import p_values
from holdfast.stats.power import draw_typical
from holdfast.study.rules import GateSection
from holdfast.study.study import Study

DRAWS, SEED = 400, 0
FREE = "mockllm/"  # a provider that asks nobody
OWN_SERVERS = ("llama-cpp-python", "ollama", "sglang", "vllm")  # on this machine, unless their address says otherwise
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is to come, in sentences; ``paid`` models are asked so many ``calls``."""

    sentences: tuple[str, ...]
    paid: tuple[str, ...]
    calls: int


def look_ahead(studies: Sequence[tuple[Study, Path]], rules: GateSection) -> Outlook:
    """What some studies that evaluate models take where they are carried out, and what their cases can tell."""
    plans = [(build(study), output) for study, output in studies]
    documents = [forecast(plan, output) for plan, output in plans]
    left = [one["left"] for one in documents]
    rows = [row for one in documents for row in one["steps"] if row["kind"] == "rollout"]
    episodes = sum(row["size"] for row in rows if row["status"] != "done")
    first = studies[0][0]
    models = dict.fromkeys(name for study, _ in studies for name in study.model.bases)
    cases, per_case = first.suite.test_cases, first.rollouts.per_test_case
    judges = ", ".join(first.judges)
    minutes = sum(one["hours"] for one in left) * 60
    untold = [why for one in documents for why in one.get("untold", {}).values()]
    time = f"about {minutes:,.0f} minutes here" if minutes >= 1 else "less than a minute here"
    sentences = [
        f"{' and '.join(models)}: {count_noun(cases, 'cases')}, {per_case} a case, judged by {judges};"
        f" {count_noun(episodes, 'episodes')} to do, {'how long is told as it goes on' if untold else time}"
    ]
    asked = [
        row
        for (study, _), one in zip(studies, documents, strict=True)
        for row in one["traffic"]
        if row["calls"] and may_cost(study, row["model"])
    ]
    paid = tuple(dict.fromkeys(row["model"] for row in asked))
    calls, money = sum(round(row["calls"]) for row in asked), sum(row["money"] for row in asked)
    if paid:
        price = f"{money:,.2f} of money" if money else "no price of them is known ([endpoints.NAME] input_price)"
        sentences.append(f"about {calls:,} calls to {', '.join(paid)}: {price}")
    sentences += describe_reach(rules, cases, per_case)
    return Outlook(sentences=tuple(sentences), paid=paid, calls=calls)


def describe_reach(rules: GateSection, cases: int, rollouts: int) -> Iterator[str]:
    """What so many cases can tell: the fewest with which anything passes, and how often two equal agents do."""
    alpha = rules.alpha / (len(rules.blocking) if rules.combine == "holm" else 1)
    margin = rules.margin
    if margin is None or not 0 < margin < 3 or rules.bound != "gaffke" or rules.cluster == FAMILY:
        return
    # All changes 0 (Clopper and Pearson): the bound reaches the margin where (1 - margin / 3) ** cases <= alpha.
    fewest = math.ceil(math.log(alpha) / math.log1p(-margin / 3))
    if cases < fewest:
        yield (
            f"with {count_noun(cases, 'cases')} nothing can pass the margin of {margin:g} points, for {fewest} are the"
            " fewest: the answer will be FAIL or INCONCLUSIVE (--cases, --margin)"
        )
        return
    samples = draw_typical(np.random.default_rng(SEED), DRAWS, cases, rollouts)
    passed = p_values(samples, -margin, low=-3.0, high=3.0, method=rules.bound) <= alpha
    yield (
        f"of two equal agents whose scores vary as published ones do, {100 * float(passed.mean()):.0f} % pass the"
        f" margin of {margin:g} points with so many cases (--plan says more, once there are scores)"
    )


def may_cost(study: Study, name: str) -> bool:
    """Whether calls to a model may cost money: a provider's do, unless its server is on this machine."""
    entry, url = study.entry(name), study.endpoint(name).base_url
    return entry.kind == "remote" and not entry.name.startswith(FREE) and may_cost_at(entry.name, url)


def may_cost_at(name: str, url: str | None) -> bool:
    """Whether calls to a provider's model may cost money, at an address where one is given."""
    provider, _, rest = name.partition("/")
    # Where Inspect finds a provider's address that nobody gave: OPENAI_BASE_URL, and of openai-api/NAME NAME_BASE_URL.
    service = rest.partition("/")[0] if provider == "openai-api" else provider
    url = url or os.environ.get(f"{service.upper().replace('-', '_')}_BASE_URL")
    if url is None:
        return provider not in OWN_SERVERS
    return urlsplit(url).hostname not in _HERE
