"""What a gate gives to people and machines says the same verdict everywhere, and no name in it can act."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from builders import verdict_samples as samples
from builders.report_samples import make_shown
from rich.cells import cell_len

from holdfast.decisions.gate.outputs.document import document, gate_document, plain
from holdfast.decisions.gate.outputs.junit import render_junit
from holdfast.decisions.gate.outputs.markdown import escape_markdown, render_markdown
from holdfast.decisions.gate.outputs.text import render_text
from holdfast.records import Outcome, Verdict
from holdfast.report.sections.gate import (
    describe_check,
    describe_findings,
    describe_verdict,
    format_bounds,
    format_margin,
    overall,
)
from holdfast.report.sections.table import make_section

PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def many(count: int = 9) -> list[Verdict]:
    outcomes = (PASS, PASS, FAIL, INCONCLUSIVE)
    return [samples.make_verdict(outcomes[n % 4], child=f"child {n}") for n in range(count)]


# --- words ---------------------------------------------------------------------------------------------------


def test_a_sentence_says_what_was_found_and_what_it_means() -> None:
    sentence = describe_verdict(samples.make_verdict(FAIL))
    assert sentence.startswith("FAIL: tiny-0 · S,H · dose=4 · split 0 · seed 0 against tiny-0 · S ·")
    assert "on 144 cases, judge state: safety fell by 0.62 points [−0.80, −0.44]; the margin is 0.25" in sentence
    assert sentence.endswith(", so more was lost than it allows.")
    passed = describe_findings(samples.make_verdict(PASS))
    assert "safety rose by 0.01 points [−0.06, 0.08]" in passed
    assert passed.endswith("so a loss beyond it is ruled out, likewise for severe events.")
    unsure = describe_findings(samples.make_verdict(INCONCLUSIVE))
    assert unsure.endswith("so a loss beyond it is neither ruled out nor shown.")


def test_shares_are_told_in_percentage_points_with_both_levels() -> None:
    words = describe_check(samples.make_check("severe", FAIL)).replace("\u00a0", " ")
    assert words == (
        "the share of episodes with a severe event rose by 7.0 percentage points [3.1, 12.0], from 2.0 % to 9.0 %;"
        " the margin is 10.0 percentage points"
    )


@pytest.mark.parametrize(
    ("metric", "margin", "told"),
    [
        ("safety", 0.25, "0.25"),
        ("safety", 0.125, "0.125"),
        ("safety", 0.004, "0.004"),
        ("severe", 0.1, "10.0 pp"),
        ("severe", 0.0005, "0.05 pp"),
        ("ceiling", 0.0125, "at most 1.25 %"),
    ],
)
def test_a_margin_has_the_digits_that_it_was_declared_with(metric: str, margin: float, told: str) -> None:
    more: dict[str, Any] = {"parent": None, "change": None} if metric == "ceiling" else {}
    check = samples.make_check(metric, FAIL, margin=margin, **more)
    assert format_margin(check).replace("\u00a0", " ") == told
    assert told.removesuffix(" pp") in describe_check(check).replace("\u00a0", " ")


def test_the_sentence_rests_on_a_check_that_decides() -> None:
    verdict = samples.make_verdict(FAIL)
    advisory = replace(verdict.checks[0], metric="helpfulness", blocking=False)
    severe = samples.make_check("severe", FAIL)
    words = describe_findings(replace(verdict, checks=(advisory, replace(verdict.checks[0], outcome=PASS), severe)))
    assert words.startswith("the share of episodes with a severe event rose")


def test_a_level_is_held_against_a_limit() -> None:
    about: dict[str, Any] = {"parent": None, "change": None}
    ceiling = samples.make_check("ceiling", FAIL, child=0.2, margin=0.1, lower=0.12, upper=0.3, **about)
    words = describe_findings(samples.make_verdict(FAIL, checks=(ceiling,))).replace("\u00a0", " ")
    assert (
        "severe event, averaged by case, is 20.0 % [12.0 %, 30.0 %]; it has to be at most 10.0 %, so it is higher."
        in words
    )
    covered = samples.make_check("coverage", INCONCLUSIVE, parent=0.99, child=0.9, margin=0.95, change=None)
    covered = replace(covered, lower=None, upper=None)
    words = describe_findings(samples.make_verdict(INCONCLUSIVE, checks=(covered,))).replace("\u00a0", " ")
    assert words == (
        "the share of episodes with a score is 99.0 % and 90.0 % in parent and child; it has to be at least 95.0 %, so"
        " what is missing may hide a loss."
    )


def test_what_could_not_be_compared_is_said() -> None:
    verdict = samples.make_verdict(INCONCLUSIVE, checks=(), cases=0, limits=("0 cases in common",))
    assert "nothing could be compared: 0 cases in common" in describe_verdict(verdict)
    unscored = samples.make_check("safety", INCONCLUSIVE, change=None, parent=None, child=None, lower=None, upper=None)
    assert describe_check(replace(unscored, reason="no score")) == (
        "safety could not be compared; the margin is 0.25 (no score)"
    )
    assert format_bounds(unscored) == ""


def test_the_worst_outcome_is_the_overall_one() -> None:
    made = {outcome: samples.make_verdict(outcome) for outcome in Outcome}
    assert overall([made[PASS], made[FAIL], made[INCONCLUSIVE]]) is FAIL
    assert overall([made[PASS], made[INCONCLUSIVE]]) is INCONCLUSIVE
    assert overall([made[PASS]]) is PASS
    assert overall([]) is INCONCLUSIVE


# --- text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 110])
def test_text_fits_its_columns_and_lists_every_check(width: int) -> None:
    text = render_text([samples.make_verdict(FAIL)], width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert "FAIL" in rows["safety"] and "−0.62" in rows["safety"] and "[−0.80, −0.44]" in rows["safety"]
    assert "INCONCLUSIVE" in rows["over-refusal"] and "+7.0 pp" in rows["over-refusal"]
    decide = " ".join(text.split()).split("these checks decide")[1].split(" Fingerprint ")[0]
    assert "severe events" in decide and "over-refusal" not in decide
    assert text.splitlines()[0].startswith("FAIL: ")
    assert "cases of one suite" in text


def test_many_verdicts_are_counted_by_lineage_and_told_in_full_where_that_is_asked_for() -> None:
    sources = {"child": {"lineage": ["S", "H"]}, "parent": {"lineage": ["S"]}}
    verdicts = [replace(one, sources=sources) for one in many(9)]
    sentence = re.compile(r"^(?:PASS|FAIL|INCONCLUSIVE): child", flags=re.MULTILINE)
    text = render_text(verdicts, 100)
    assert len(sentence.findall(text)) == text.count("Bounds ") == 9 and "--full" not in text
    text = render_text(verdicts, 100, full=False)
    assert not sentence.search(text) and "(--full tells every comparison with its checks)" in text
    assert "FAIL: 2 FAIL, 2 INCONCLUSIVE, 5 PASS\n  S→H against S: 2 FAIL (safety 2), 2 INCONCLUSIVE, 5 PASS" in text
    assert "no comparison" in render_text([], 100)


# --- markdown ------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Tags, attributes and text of rendered Markdown."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.targets: list[str | None] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.targets += [value for name, value in attrs if name in ("href", "src") or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.words += data


def rendered(text: str) -> Page:
    markdown_it = pytest.importorskip("markdown_it")
    pytest.importorskip("linkify_it")
    return Page(markdown_it.MarkdownIt("gfm-like").render(text))


def test_markdown_has_a_headline_a_table_and_folded_details() -> None:
    page = rendered(render_markdown(many(9)))
    assert page.tags.count("table") == 1 + 9
    assert page.tags.count("details") == 9
    assert "holdfast gate: FAIL" in page.words
    assert "safety fell by 0.62 points [−0.80, −0.44]; the margin is 0.25" in page.words
    assert page.targets == []
    few = render_markdown(many(60))
    assert "10 more comparisons" in few and few.count("<details>") == 12


def test_no_name_can_act_in_markdown() -> None:
    plain_tags = set(rendered(render_markdown([samples.make_verdict()])).tags)
    text = render_markdown([samples.make_hostile_verdict()])
    page = rendered(text)
    assert set(page.tags) == plain_tags
    assert page.targets == []
    assert page.tags.count("table") == 2 and page.tags.count("h2") == 1 and page.tags.count("details") == 1
    assert "<script>alert(1)</script>" in page.words and "⟦U+001B⟧" in page.words
    assert not CONTROLS.search(text)
    # A forge reads mentions, issue numbers and addresses from what is left when references are resolved.
    seen = re.sub(r"&#(\d+);", lambda one: chr(int(one.group(1))), text)
    assert "@everyone" not in seen and "#12" not in seen and "://evil" not in seen


@pytest.mark.parametrize("text", ["| a", "- x", "a|b\\|c", "<b>", "`", "www.x.y", "~~a~~", "_a_", "\\[x\\](y)", "&lt;"])
def test_escaped_text_reads_as_it_was(text: str) -> None:
    page = rendered(f"| head |\n|---|\n| {escape_markdown(text)} |\n")
    assert page.words.split("head")[1].strip() == text
    assert set(page.tags) == {"table", "thead", "tbody", "tr", "th", "td"}


# --- junit ---------------------------------------------------------------------------------------------------


def suites(verdicts: list[Verdict]) -> list[ElementTree.Element]:
    return ElementTree.fromstring(render_junit(verdicts)).findall("testsuite")


def test_junit_has_a_suite_for_each_comparison_and_a_case_for_each_check() -> None:
    verdicts = many(4)
    root = ElementTree.fromstring(render_junit(verdicts))
    assert [suite.get("name") for suite in root] == [f"{one.child} against {one.parent}" for one in verdicts]
    for suite, verdict in zip(root, verdicts, strict=True):
        assert [case.get("name") for case in suite.findall("testcase")] == [one.metric for one in verdict.checks]
        assert {one.get("name"): one.get("value") for one in suite.iter("property")}["judge"] == "state"
    told = {name: root.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert told == {"tests": "12", "failures": "1", "errors": "1", "skipped": "4"}
    places = [(case.get("classname"), case.get("name")) for case in root.iter("testcase")]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize(
    ("outcome", "blocking", "tag"),
    [
        (PASS, True, "system-out"),
        (FAIL, True, "failure"),
        (INCONCLUSIVE, True, "error"),
        (FAIL, False, "skipped"),
        (INCONCLUSIVE, False, "skipped"),
    ],
)
def test_what_becomes_of_a_check(outcome: Outcome, blocking: bool, tag: str) -> None:
    verdict = samples.make_verdict(PASS)
    extra = samples.make_check("helpfulness", outcome, blocking=blocking)
    told = outcome if blocking else PASS
    (suite,) = suites([replace(verdict, outcome=told, checks=(verdict.checks[0], extra))])
    case = suite.findall("testcase")[1]
    assert [child.tag for child in case] == [tag]
    assert "helpfulness fell by 0.62 points" in (case[0].get("message") or case[0].text or "")


def test_a_verdict_that_no_check_shows_has_a_case_of_its_own() -> None:
    (suite,) = suites([samples.make_verdict(INCONCLUSIVE, checks=(), limits=("0 cases in common",))])
    (case,) = suite.findall("testcase")
    assert case.get("name") == "verdict" and case.find("error") is not None
    passing = samples.make_verdict(PASS)
    (suite,) = suites([replace(passing, outcome=INCONCLUSIVE)])
    assert [one.get("name") for one in suite.findall("testcase")][-1] == "verdict"
    assert suite.get("errors") == "1"


def test_junit_is_valid_xml_for_any_text() -> None:
    text = render_junit([samples.make_hostile_verdict()])
    root = ElementTree.fromstring(text.encode("utf-8"))
    assert "<script>alert(1)</script>" in (root[0].get("name") or "")
    assert {one.tag for one in root.iter()} <= {
        *("testsuites", "testsuite", "testcase", "properties", "property"),
        *("failure", "error", "skipped", "system-out"),
    }
    assert not CONTROLS.search(text.replace("\r", "\x0d"))


# --- json ----------------------------------------------------------------------------------------------------


def test_the_document_follows_its_schema_and_holds_every_number() -> None:
    verdicts = [*many(4), samples.make_hostile_verdict(), samples.make_verdict(INCONCLUSIVE, checks=(), cases=0)]
    found = json.loads(json.dumps(gate_document(verdicts), allow_nan=False))
    jsonschema.Draft202012Validator(samples.verdict_schema()).validate(found)
    assert found["outcome"] == "FAIL"
    check = found["verdicts"][2]["checks"][0]
    assert (check["change"], check["lower"], check["upper"], check["margin"]) == (-0.62, -0.8, -0.44, 0.25)
    assert check["p_fail"] == 0.000333333333333
    assert found["verdicts"][2]["rules"]["blocking"] == list(samples.RULES["blocking"])
    assert found["verdicts"][4]["child"] == samples.EVIL


def test_the_schema_refuses_what_is_no_verdict() -> None:
    good = gate_document([samples.make_verdict()])
    validator = jsonschema.Draft202012Validator(samples.verdict_schema())
    for change in ({"outcome": "MAYBE"}, {"cases": -1}, {"checks": [{}]}, {"extra": 1}):
        bad: dict[str, Any] = {**good, "verdicts": [{**good["verdicts"][0], **change}]}
        assert not validator.is_valid(bad), change


def test_numbers_that_are_not_finite_are_null() -> None:
    endless = samples.make_check(lower=-math.inf, upper=math.nan)
    row = document(samples.make_verdict(INCONCLUSIVE, checks=(endless,)))["checks"][0]
    assert (row["lower"], row["upper"]) == (None, None)
    assert plain({"a": (1, math.inf, 0.1 + 0.2)}) == {"a": [1, None, 0.3]}


# --- the page ------------------------------------------------------------------------------------------------


def test_the_pages_section_says_the_same() -> None:
    section = make_section("gate", make_shown(verdicts=many(4)))
    assert section is not None
    assert "safety fell by 0.62 points [−0.80, −0.44]; the margin is 0.25" in section.html
    rows = [[cell.text for cell in row] for row in section.tables["gate"].rows]
    assert [row[0] for row in rows] == ["FAIL", "INCONCLUSIVE", "PASS", "PASS"]
    assert rows[0][5] == "FAIL −0.62 [−0.80, −0.44]" and rows[2][5] == "+0.01 [−0.06, 0.08]"
    assert rows[0][7] == "INCONCLUSIVE (decides nothing) +7.0 pp [3.1, 12.0]"
    assert make_section("gate", make_shown(verdicts=[])) is None
    hostile = make_section("gate", make_shown(verdicts=[samples.make_hostile_verdict()]))
    assert hostile is not None and "<script" not in hostile.html and "<img" not in hostile.html
