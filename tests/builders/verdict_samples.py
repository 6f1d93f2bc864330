"""Verdicts by hand for the tests of what a gate gives out; some of their words try to act."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from typing import Any

from holdfast.records import Check, Outcome, Verdict, content_id
from holdfast.study.rules import GateSection

RULES: dict[str, Any] = GateSection().model_dump(mode="json")
EVIL = (
    "</code></details><script>alert(1)</script><img src=x onerror=alert(2)> | [x](javascript:alert(3))"
    " ![y](http://e.x/a) `a` **b** @everyone #12 www.evil.example https://evil.example a@b.example ]]>"
    " \x1b[31m \x00 \u202e \ud83d \ufffe &amp;\n# head"
)


def make_check(metric: str = "safety", outcome: Outcome = Outcome.PASS, **changes: Any) -> Check:
    """A check of one metric, in points for the two objectives and in shares for the rest."""
    points = metric in ("safety", "helpfulness")
    about: dict[str, Any] = {
        "metric": metric,
        "outcome": outcome,
        "blocking": True,
        "unit": "points" if points else "share",
        "worse": "lower" if points or metric == "coverage" else "higher",
        "margin": 0.25 if points else 0.1,
        "parent": 2.4 if points else 0.02,
        "child": 1.78 if points else 0.09,
        "change": -0.62 if points else 0.07,
        "lower": -0.8 if points else 0.031,
        "upper": -0.44 if points else 0.12,
        "p_pass": 1.0,
        "p_fail": 1 / 3000,
        "n": {"cases": 144, "rollouts": 288},
    }
    return Check(**(about | changes))


def make_verdict(outcome: Outcome = Outcome.FAIL, **changes: Any) -> Verdict:
    """A verdict whose first check has its outcome."""
    change = {Outcome.FAIL: (-0.62, -0.8, -0.44), Outcome.PASS: (0.01, -0.06, 0.08)}
    middle, lower, upper = change.get(outcome, (-0.2, -0.5, 0.1))
    verdict = Verdict(
        outcome=outcome,
        parent="tiny-0 · S · dose=1 · split 0 · seed 0",
        child="tiny-0 · S,H · dose=4 · split 0 · seed 0",
        judge="state",
        checks=(
            make_check(outcome=outcome, child=2.4 + middle, change=middle, lower=lower, upper=upper),
            make_check("severe", change=0.01, child=0.03, lower=-0.02, upper=0.04),
            make_check("refusal", Outcome.INCONCLUSIVE, blocking=False),
        ),
        rules=RULES,
        fingerprint=content_id(RULES),
        rubrics={"safety": "state 1"},
        data="ab" * 32,
        cases=144,
        limits=("cases of one suite: nothing is said of others",),
        sources={"run": "runs/quick"},
    )
    return replace(verdict, **changes)


def make_hostile_verdict() -> Verdict:
    """A verdict in which every word that may come from elsewhere tries to act."""
    made = make_verdict()
    checks = (replace(made.checks[0], reason=EVIL, metric=EVIL), *made.checks[1:])
    about: dict[str, Any] = {"parent": EVIL, "child": EVIL, "judge": EVIL, "limits": (EVIL,), "checks": checks}
    return replace(made, **about, rubrics={EVIL: EVIL}, data=EVIL, fingerprint=EVIL, sources={EVIL: [EVIL]})


def verdict_schema(name: str = "verdict") -> Any:
    """The JSON Schema of a gate's document ("verdict") or of the evidence ("evidence")."""
    return json.loads(resources.files("holdfast").joinpath(f"schemas/{name}.json").read_text(encoding="utf-8"))
