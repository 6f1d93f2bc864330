"""A gate's pages in headless Chromium: narrow, wide, dark, printed, and for readers who do not see them."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import verdict_samples as samples
from builders.browser import CHROMIUM, DRIVER, find_violations, open_chromium
from builders.commands import asked

from holdfast.decisions.gate.outputs.answer_page import render_answer
from holdfast.records import Outcome

pytest.importorskip("selenium", reason="selenium is not installed")
pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("Chromium and its driver are not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.execute_cdp_cmd("Page.setBypassCSP", {"enabled": True})
        yield driver


@pytest.fixture(scope="module")
def pages(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The answer of one comparison and its evidence, that of a whole run, and one with hostile names."""
    from holdfast.cli.main import main

    folder = tmp_path_factory.mktemp("answers")
    main(["gate", f"{smoke_run}:S", f"{smoke_run}:S,H dose=2", "-o", str(folder / "one"), "--quiet"])
    main(["gate", str(smoke_run), "--all", "-o", str(folder / "all"), "--quiet"])
    verdicts = [samples.make_hostile_verdict(), *(samples.make_verdict(outcome) for outcome in Outcome)]
    html = render_answer(verdicts, None, made="2026-12-01", command="holdfast gate '<b>'", links={"more": "gate.json"})
    (folder / "hostile.html").write_text(html, encoding="utf-8")
    return {
        "one": folder / "one" / "gate.html",
        "evidence": folder / "one" / "evidence.html",
        "all": folder / "all" / "gate.html",
        "hostile": folder / "hostile.html",
    }


def look(driver: Any, page: Path, *, width: int = 1280, scheme: str = "light", media: str = "screen") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    driver.get(f"file://{page}")


@pytest.mark.parametrize("name", ["one", "evidence", "all", "hostile"])
@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (1280, "light"), (390, "light")])
def test_nothing_bars_a_reader(name: str, width: int, scheme: str, chromium: Any, pages: dict[str, Path]) -> None:
    """axe-core finds nothing, no line runs out of the window, and the page logs nothing."""
    look(chromium, pages[name], width=width, scheme=scheme)
    chromium.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    assert find_violations(chromium) == []
    assert chromium.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_what_is_folded_is_printed(chromium: Any, pages: dict[str, Path]) -> None:
    """Paper cannot be clicked: every case and every limit stands on it, in dark ink."""
    look(chromium, pages["one"], scheme="dark", media="print")
    hidden = chromium.execute_script(
        "return [...document.querySelectorAll('details > :not(summary)')]"
        ".filter(one => !one.checkVisibility({contentVisibilityAuto: true})).map(one => one.outerHTML.slice(0, 80))"
    )
    assert chromium.execute_script("return document.querySelectorAll('details').length") > 0 and hidden == []
    ink, paper = chromium.execute_script(
        "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
    )
    assert sum(map(int, ink[4:-1].split(",")[:3])) < 200 < sum(map(int, paper[4:-1].split(",")[:3]) or [765]), ink
    pdf = base64.b64decode(chromium.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})["data"])
    assert pdf.startswith(b"%PDF") and 1 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") <= 40


def test_the_path_of_the_page_is_told_and_opens(
    smoke_run: Path, tmp_path: Path, chromium: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out, _ = asked(capsys, "gate", f"{smoke_run}:S", f"{smoke_run}:S,H dose=2", "-o", tmp_path / "out", "--quiet")
    look(chromium, Path(out.splitlines()[-1]))
    assert "S,H" in chromium.title or "S,H" in chromium.find_element("tag name", "h1").text
