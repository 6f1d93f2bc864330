"""Verdicts as JUnit XML: a suite for each comparison, a case for each check.

=============================  ========================
a check                        becomes
=============================  ========================
PASS                           a case that passed
FAIL, blocking                 ``failure``
INCONCLUSIVE, blocking         ``error``: the test could not tell
FAIL or INCONCLUSIVE, advisory ``skipped`` with the sentence: it decides nothing
=============================  ========================

A CI system that reads the file so comes to the gate's own verdict: failures where it is FAIL, errors alone where it is
INCONCLUSIVE, neither where it is PASS. Where the checks do not show the verdict (nothing could be compared), a case
named ``verdict`` holds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from holdfast.records import Check, Outcome, Verdict
from holdfast.records.verdicts import combine
from holdfast.report.sections.gate import describe_check, describe_findings, describe_rules, describe_several
from holdfast.report.words.inert import show_line

CLASS = "holdfast.decisions.gate"
ELEMENTS = {Outcome.FAIL: "failure", Outcome.INCONCLUSIVE: "error"}


def render_junit(verdicts: Sequence[Verdict]) -> str:
    """The verdicts as a JUnit XML document: valid XML whatever text a name holds, and the same for equal verdicts."""
    root = ElementTree.Element("testsuites", name="holdfast gate")
    several = " ".join(describe_several(verdicts))
    for one in verdicts:
        root.append(_suite(one, several))
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suite(verdict: Verdict, several: str) -> ElementTree.Element:
    """A comparison; ``several`` says what holds for the list that it stands in, where it is not alone."""
    suite = ElementTree.Element("testsuite", name=show_line(f"{verdict.child} against {verdict.parent}"))
    noted = {
        "outcome": verdict.outcome.value,
        **{f"basis {number}": words for number, words in enumerate(verdict.basis, 1)},
        "judge": verdict.judge,
        "judge labelled": verdict.labelled.value,
        "cases": str(verdict.cases),
        "fingerprint": verdict.fingerprint,
        "data": verdict.data,
        "rules": describe_rules(verdict),
        **({"note": verdict.note} if verdict.note else {}),
        **({"several": several} if several else {}),
        **{f"limit {number}": limit for number, limit in enumerate(verdict.limits, 1)},
    }
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in noted.items():
        ElementTree.SubElement(properties, "property", name=name, value=show_line(value))
    found = [_case(verdict, one.metric, one.outcome, describe_check(one), one) for one in verdict.checks]
    decisive = [one.outcome for one in verdict.checks if one.blocking]
    if not decisive or combine(decisive) is not verdict.outcome:
        found.append(_case(verdict, "verdict", verdict.outcome, describe_findings(verdict), None))
    suite.extend(found)
    suite.set("tests", str(len(found)))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(tag) is not None for case in found)))
    return suite


def _case(verdict: Verdict, name: str, outcome: Outcome, sentence: str, check: Check | None) -> ElementTree.Element:
    # A class of its own for each comparison: readers merge cases of one class and name.
    place = f"{CLASS}.{verdict.child} against {verdict.parent}"
    case = ElementTree.Element("testcase", classname=show_line(place), name=show_line(name))
    message = show_line(f"{outcome.value}: {sentence}")
    if outcome is Outcome.PASS:
        ElementTree.SubElement(case, "system-out").text = message
    elif check is not None and not check.blocking:
        ElementTree.SubElement(case, "skipped", message=f"decides nothing: {message}")
    else:
        ElementTree.SubElement(case, ELEMENTS[outcome], message=message, type=outcome.value).text = message
    return case
