"""A reader's way through the report in headless Chromium, over file://, with hostile texts in the run."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import condition_samples as conditions
from builders import report_samples as samples
from builders import verdict_samples
from builders.browser import CHROMIUM, DRIVER, open_chromium

from holdfast.report import write_report

pytest.importorskip("selenium", reason="selenium is not installed")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("Chromium and its driver are not installed", allow_module_level=True)

from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

SECONDS = 20


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with samples.make_store(tmp_path_factory.mktemp("run") / "run") as store:
        kept = ("taxonomy", "susceptibility", "shifts", "repair")
        extra = {name: getattr(conditions.make_conditions(), name) for name in kept}
        analysis = replace(samples.make_analysis(), **extra)
        verdicts = [verdict_samples.make_verdict(), verdict_samples.make_hostile_verdict()]
        return write_report(store, analysis, title="Browser sample", verdicts=verdicts)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with open_chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def browser(chromium: Any, page: Path) -> Iterator[Any]:
    """The page freshly opened; afterwards nothing may have been logged and no dialogue may be open."""
    open_page(chromium, page)
    yield chromium
    assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    with pytest.raises(NoAlertPresentException):
        _ = chromium.switch_to.alert.text


def open_page(driver: Any, page: Path, place: str = "") -> None:
    driver.get("about:blank")
    driver.get(f"file://{page}{place}")
    until(driver, lambda: driver.execute_script("return document.documentElement.dataset.ready"))


def until(driver: Any, condition: Callable[[], Any]) -> Any:
    return WebDriverWait(driver, SECONDS).until(lambda _: condition())


def texts(driver: Any, selector: str) -> list[str]:
    return [one.get_property("textContent") for one in driver.find_elements(By.CSS_SELECTOR, selector)]


def click(driver: Any, selector: str) -> None:
    found = driver.find_element(By.CSS_SELECTOR, selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
    found.click()


def open_case(driver: Any, number: int) -> None:
    rows = driver.find_elements(By.CSS_SELECTOR, "#case-table tbody tr")
    row = next(one for one in rows if one.find_element(By.CSS_SELECTOR, "td").text == str(number))
    button = row.find_element(By.CSS_SELECTOR, ".open")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    until(driver, lambda: len(driver.find_elements(By.CSS_SELECTOR, ".run h4")) == 2)


def shown_scores(driver: Any) -> list[float]:
    cells = driver.find_elements(By.CSS_SELECTOR, "#results-table tbody tr:not([hidden]) td:nth-last-child(2)")
    return [float(cell.get_attribute("data-v")) for cell in cells]


def test_results_sort_and_filter(browser: Any) -> None:
    assert len(shown_scores(browser)) == 6  # pooled at first
    levels = Select(browser.find_element(By.CSS_SELECTOR, "#results .controls select"))
    levels.select_by_visible_text("by base")
    assert len(shown_scores(browser)) == 18
    click(browser, "#results-table th:nth-last-child(2) .sort")
    rising = shown_scores(browser)
    assert rising == sorted(rising)
    click(browser, "#results-table th:nth-last-child(2) .sort")
    assert shown_scores(browser) == sorted(rising, reverse=True)
    head = browser.find_element(By.CSS_SELECTOR, "#results-table th:nth-last-child(2)")
    assert head.get_attribute("aria-sort") == "descending"
    levels.select_by_visible_text("pooled over bases and judges")
    assert len(shown_scores(browser)) == 6


def test_every_table_shows_rows_at_first(browser: Any) -> None:
    empty = "return [...document.querySelectorAll('table.sortable')].filter((one) => one.tBodies[0].rows.length"
    empty += " && ![...one.tBodies[0].rows].some((row) => !row.hidden)).map((one) => one.id)"
    assert browser.execute_script(empty) == []
    assert texts(browser, "#frontier-table tbody tr:not([hidden])") != []


def test_cases_filter_sort_and_open_with_the_keyboard(browser: Any) -> None:
    search = browser.find_element(By.ID, "case-search")
    search.send_keys("payment")
    assert texts(browser, "#case-count") == ["3 of 9 cases"]
    assert set(texts(browser, "#case-table tbody td:nth-child(2)")) == {"payment"}
    search.send_keys(Keys.ENTER)  # does not leave the page
    search.clear()
    search.send_keys(" ", Keys.BACKSPACE)
    until(browser, lambda: texts(browser, "#case-count") == ["9 of 9 cases"])
    Select(browser.find_element(By.ID, "case-family")).select_by_visible_text("privacy")
    until(browser, lambda: texts(browser, "#case-count") == ["3 of 9 cases"])
    Select(browser.find_element(By.ID, "case-family")).select_by_value("")
    click(browser, "#case-table th:nth-child(4) .sort")
    means = [float(words) for words in texts(browser, "#case-table tbody td:nth-child(4)")]
    assert means == sorted(means)
    assert len(means) == samples.CASES
    button = browser.find_element(By.CSS_SELECTOR, "#case-table .open")
    button.send_keys(Keys.ENTER)
    until(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, ".run h4")) == 2)


def test_what_an_agent_answered_itself_is_marked_as_text(browser: Any) -> None:
    open_case(browser, 3)
    first = browser.find_element(By.CSS_SELECTOR, ".run.right .message.assistant .body")
    assert [one.text for one in first.find_elements(By.CSS_SELECTOR, ".written")] == [
        "**Observation:** a.txt\nb.txt <b>"
    ]
    assert first.get_property("textContent").endswith("b.txt <b>\nThought: done")


def test_a_case_opens_at_a_parent_and_its_second_stage(browser: Any) -> None:
    open_case(browser, 5)
    left, right = texts(browser, ".run h4")
    assert right.startswith(("S→H", "H→S"))
    assert left.split(" ")[0] == right[0]
    assert re.fullmatch(r"#case-5&left=\d+&right=\d+", browser.execute_script("return location.hash"))


def test_the_address_keeps_the_pair_and_the_filters(browser: Any, page: Path) -> None:
    open_case(browser, 5)
    browser.find_element(By.ID, "swap").click()
    asked, shown = browser.execute_script("return location.hash"), texts(browser, ".run h4")
    open_page(browser, page, asked)
    until(browser, lambda: texts(browser, ".run h4") == shown)
    search = browser.find_element(By.ID, "case-search")
    search.send_keys("payment")
    Select(browser.find_element(By.ID, "case-lineage")).select_by_visible_text("S→H")
    asked, rows = browser.execute_script("return location.hash"), texts(browser, "#case-table tbody tr")
    assert asked.startswith("#cases&search=payment") and 0 < len(rows) < samples.CASES
    open_page(browser, page, asked)
    until(browser, lambda: texts(browser, "#case-table tbody tr") == rows)
    assert browser.find_element(By.ID, "case-search").get_attribute("value") == "payment"


def test_cases_are_filtered_by_the_change_from_the_parent(browser: Any) -> None:
    every = len(texts(browser, "#case-table tbody tr"))
    seen = 0
    for wanted, fits in (("fell", lambda x: x < 0), ("rose", lambda x: x > 0), ("the same", lambda x: x == 0)):
        Select(browser.find_element(By.ID, "case-change")).select_by_visible_text(wanted)
        heads = texts(browser, "#case-table thead th")
        column = next(place for place, head in enumerate(heads) if head.startswith("Change of safety"))
        changes = [float(words) for words in texts(browser, f"#case-table tbody td:nth-child({column + 1})")]
        assert all(map(fits, changes))
        seen += len(changes)
    assert 0 < seen <= every


def test_all_texts_are_searched_and_a_trajectory_shows_its_id(browser: Any) -> None:
    open_case(browser, 5)
    identity = texts(browser, ".run.right .trajectory")[0].removeprefix("trajectory ")
    browser.find_element(By.ID, "case-search").send_keys(identity)
    assert texts(browser, "#case-table tbody tr") == []
    browser.execute_script("arguments[0].click()", browser.find_element(By.ID, "case-texts"))
    until(browser, lambda: texts(browser, "#case-table tbody td:first-child") == ["5"])
    assert "1 trajectory that holds" in texts(browser, "#case-count")[0]


def test_a_number_opens_to_what_it_rests_on_with_the_keyboard_and_in_print(browser: Any) -> None:
    number = browser.find_element(By.CSS_SELECTOR, "#results-table tbody tr:not([hidden]) .basis summary")
    browser.execute_script("arguments[0].focus()", number)
    number.send_keys(Keys.ENTER)
    assert "estimator" in texts(browser, "#results-table .basis[open] p")[0]
    number.send_keys(Keys.ENTER)
    assert texts(browser, "#results-table .basis[open] p") == []
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 688, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    script = """return [...document.querySelectorAll("table, .plot svg")].filter((one) => one.checkVisibility())
        .map((one) => one.getBoundingClientRect().right)"""
    edges = browser.execute_script(script)
    shown = browser.execute_script("return arguments[0].parentNode.lastChild.checkVisibility()", number)
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert shown and max(edges) <= 690
    assert texts(browser, ".basis[open]") == []


def test_the_navigation_fits_and_marks_the_section_being_read(browser: Any) -> None:
    marked = "nav a[aria-current]"
    assert texts(browser, marked) == ["Answer"]
    browser.execute_script("document.getElementById('persistence').scrollIntoView()")
    until(browser, lambda: texts(browser, marked) == ["Persistence"])


def test_checkpoints_are_found_by_part_of_their_name(browser: Any) -> None:
    open_case(browser, 5)
    right = Select(browser.find_element(By.ID, "pick-right"))
    chosen, every = right.first_selected_option.text, len(right.options)
    browser.find_element(By.ID, "pick-find").send_keys("s&h tiny-a")
    names = [option.text for option in right.options]
    assert chosen in names and len(names) < every
    assert all(name.startswith("S&H") for name in names if name != chosen)


def test_a_rate_and_a_mean_lead_to_their_cases(browser: Any) -> None:
    link = browser.find_element(By.CSS_SELECTOR, "#results-table a[data-lineage='S→H']")
    browser.execute_script("arguments[0].click()", link)
    assert Select(browser.find_element(By.ID, "case-lineage")).first_selected_option.text == "S→H"
    counts = [int(words) for words in texts(browser, "#case-table tbody td:nth-last-child(2)")]
    assert counts == [len(samples.BASES)] * samples.CASES
    link = browser.find_element(By.CSS_SELECTOR, "#audit-table a[data-finding='loop'][data-lineage='S']")
    browser.execute_script("arguments[0].click()", link)
    assert Select(browser.find_element(By.ID, "case-flag")).first_selected_option.text == "loop"
    shown = texts(browser, "#case-table tbody tr")
    assert 0 < len(shown) <= samples.CASES
    assert texts(browser, "#case-table tbody td:last-child") == texts(browser, "#case-table tbody td:nth-last-child(2)")


def test_a_pair_of_parent_and_child_with_the_judges_reasons(browser: Any) -> None:
    open_case(browser, 0)
    Select(browser.find_element(By.ID, "pick-right")).select_by_visible_text("S→H · tiny-b · beta 0.1 · seed 0")
    until(browser, lambda: texts(browser, ".run.right h4") == ["S→H · tiny-b · beta 0.1 · seed 0"])
    click(browser, "#to-parent")
    until(browser, lambda: texts(browser, ".run.left h4") == ["S · tiny-b · beta 0.1 · seed 0"])
    click(browser, "#swap")
    until(browser, lambda: texts(browser, ".run.left h4") == ["S→H · tiny-b · beta 0.1 · seed 0"])
    click(browser, "#swap")
    until(browser, lambda: texts(browser, ".run.right h4") == ["S→H · tiny-b · beta 0.1 · seed 0"])
    click(browser, "#step-back")
    until(browser, lambda: texts(browser, ".run.right h4") == ["S · tiny-b · beta 0.1 · seed 0"])
    until(browser, lambda: texts(browser, ".run.left h4") == ["base · tiny-b"])
    assert len(browser.find_elements(By.CSS_SELECTOR, ".run.right .score")) == 4
    reason = browser.find_element(By.CSS_SELECTOR, ".run.right .reason .text")
    assert not reason.is_displayed()
    click(browser, ".run.right .reason summary")
    assert reason.is_displayed()
    assert "Reasoning of" in reason.text
    assert "⟦U+D83D⟧" in reason.text


def test_hostile_texts_are_shown_and_do_nothing(browser: Any) -> None:
    shown = []
    for number in range(samples.CASES):
        open_case(browser, number)
        shown += texts(browser, "#case-view")
    everything = "\n".join(shown)
    for words in (samples.SCRIPT, samples.IMAGE, samples.CDATA, samples.LINK, "⟦U+0000⟧", "⟦U+001B⟧", "⟦U+202E⟧"):
        assert words in everything
    assert browser.find_elements(By.CSS_SELECTOR, "#case-view img, #case-view script, #case-view a") == []
    assert browser.find_elements(By.CSS_SELECTOR, "body > iframe") == []


def test_long_texts_say_what_is_not_shown(browser: Any) -> None:
    open_case(browser, 1)
    box = browser.find_element(By.CSS_SELECTOR, ".run.left .message .text")
    assert f"{len(samples.LONG) - 60_000:,} characters are left out of this report" in box.text
    before = len(box.find_element(By.CSS_SELECTOR, ".body").get_property("textContent"))
    click(browser, ".run.left .message .more")
    after = len(box.find_element(By.CSS_SELECTOR, ".body").get_property("textContent"))
    assert (before, after) == (3000, 60_000)


def test_every_trajectory_of_a_case_is_listed_and_opens(browser: Any) -> None:
    open_case(browser, 2)
    click(browser, ".run-list summary")
    rows = browser.find_elements(By.CSS_SELECTOR, ".run-list tbody tr")
    assert len(rows) == len(samples.BASES) * len(samples.LINEAGES)
    click(browser, ".run-list th:nth-child(2) .sort")
    click(browser, ".run-list tbody tr:first-child .open")
    name = texts(browser, ".run-list tbody tr:first-child .open")
    until(browser, lambda: texts(browser, ".run.right h4") == name)


def test_broken_cases_open_at_the_parent_and_the_child(browser: Any) -> None:
    select = Select(browser.find_element(By.ID, "change-child"))
    assert select.first_selected_option.text.startswith(("S→H", "H→S"))  # a second stage first
    select.select_by_visible_text("S→H · tiny-b · beta 0.1 · seed 0")
    (told,) = texts(browser, "#change-count")
    counts = re.fullmatch(r"9 cases: safety fell in (\d+), rose in (\d+), stayed in (\d+)", told)
    assert counts is not None and sum(map(int, counts.groups())) == samples.CASES
    changes = []
    for words in texts(browser, "#broken .changed .note"):
        found = re.fullmatch(r"case \d+ · \w+ · (\d\.\d\d) in S, (\d\.\d\d) in S→H", words)
        assert found is not None
        changes.append(float(found.group(2)) - float(found.group(1)))
    fell = [one for one in changes if one < 0]
    assert changes == sorted(fell) + sorted((one for one in changes if one > 0), reverse=True)
    assert len(fell) == int(counts.group(1))
    click(browser, "#broken .open")
    until(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, ".run h4")) == 2)
    assert texts(browser, ".run.left h4") == ["S · tiny-b · beta 0.1 · seed 0"]
    assert texts(browser, ".run.right h4") == ["S→H · tiny-b · beta 0.1 · seed 0"]
    assert browser.find_elements(By.CSS_SELECTOR, "#broken img, #broken script, #broken a") == []


def test_a_link_to_a_case_opens_it(browser: Any, page: Path) -> None:
    open_page(browser, page, "#case-4")
    until(browser, lambda: texts(browser, "#case-view h3") == ["Case 4 · payment"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_narrow_and_wide_in_both_schemes(browser: Any, page: Path, width: int, scheme: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    open_page(browser, page)
    open_case(browser, 0)
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert wide <= width
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 21, 27)")


def test_a_changed_or_missing_shard_is_refused(chromium: Any, page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "report"
    shutil.copytree(page.parent, copy)
    for shard in (copy / "shards").iterdir():
        body = shard.read_text(encoding="ascii")
        shard.write_text(body.replace('id="shard">', 'id="shard">AAAA'), encoding="ascii")
    open_page(chromium, copy / "index.html")
    click(chromium, "#case-table .open")
    until(chromium, lambda: len(chromium.find_elements(By.CSS_SELECTOR, ".failure")) == 3)
    assert "is not the file this report was made with" in texts(chromium, ".failure")[0]
    for shard in (copy / "shards").iterdir():
        shard.unlink()
    open_page(chromium, copy / "index.html")
    click(chromium, "#case-table .open")
    until(chromium, lambda: len(chromium.find_elements(By.CSS_SELECTOR, ".failure")) == 3)
    assert "could not be read" in texts(chromium, ".failure")[0]
    chromium.get_log("browser")


REACH = """
(async () => {
  const tries = {
    parent: () => parent.document.title, top: () => { top.document.title = "broken"; },
    navigate: () => { top.location = "about:blank"; }, storage: () => localStorage.length,
    popup: () => { if (!open("about:blank")) throw new Error("no popup"); },
    page: async () => (await fetch("../index.html")).text(), forge: () => { parent.byId = null; },
  };
  const done = [];
  for (const [name, attempt] of Object.entries(tries)) {
    try { await attempt(); done.push(name); } catch { /* refused */ }
  }
  parent.postMessage({ forged: true }, "*");
  parent.postMessage("got " + JSON.stringify(done), "*");
})();
"""


def test_a_shard_that_runs_scripts_of_its_own_reaches_nothing(chromium: Any, page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "report"
    shutil.copytree(page.parent, copy)
    for shard in (copy / "shards").iterdir():
        shard.write_text(f"<!doctype html><title>shard</title><script>{REACH}</script>", encoding="ascii")
    open_page(chromium, copy / "index.html")
    heard = "window.heard = []; addEventListener('message', (event) => window.heard.push([event.origin, event.data]))"
    chromium.execute_script(heard)
    click(chromium, "#case-table .open")
    until(chromium, lambda: len(chromium.find_elements(By.CSS_SELECTOR, ".failure")) == 3)
    messages = chromium.execute_script("return window.heard")
    assert {origin for origin, _ in messages} == {"null"}
    assert {data for _, data in messages if isinstance(data, str)} == {"got []"}
    assert chromium.title == "Browser sample"
    assert "is not the file this report was made with" in texts(chromium, ".failure")[0]
    chromium.get_log("browser")


def test_a_shard_cannot_speak_for_another(chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.report.page.shards.SHARD_CHARACTERS", 20_000)
    with samples.make_store(tmp_path / "run") as store:
        page = write_report(store, samples.make_analysis(), title="Browser sample")
    names = sorted((page.parent / "shards").iterdir())
    assert len(names) > 2
    bodies = [name.read_bytes() for name in names]
    for name, body in zip(names, [*bodies[1:], bodies[0]], strict=True):
        name.write_bytes(body)
    open_page(chromium, page)
    click(chromium, "#case-table .open")
    until(chromium, lambda: len(chromium.find_elements(By.CSS_SELECTOR, ".failure")) == 3)
    assert all("is not the file this report was made with" in words for words in texts(chromium, ".failure"))
    chromium.get_log("browser")


def test_hostile_names_are_shown_and_do_nothing(chromium: Any, tmp_path: Path) -> None:
    with samples.make_hostile_store(tmp_path / "run") as store:
        page = write_report(store, samples.make_hostile_analysis(), title=samples.NAME)
    open_page(chromium, page)
    for button in chromium.find_elements(By.CSS_SELECTOR, "#case-table .open"):
        chromium.execute_script("arguments[0].click()", button)
        until(chromium, lambda: len(chromium.find_elements(By.CSS_SELECTOR, ".run h4")) == 2)
        shown = chromium.execute_script("return document.body.innerText")
        assert "\u202e" not in chromium.execute_script("return document.documentElement.textContent")
        assert samples.SCRIPT in shown
        tags = "img, iframe:not([sandbox]), svg [onload], [onerror], a[href^=javascript]"
        assert chromium.find_elements(By.CSS_SELECTOR, tags) == []
        assert len(chromium.find_elements(By.CSS_SELECTOR, "script")) == 2
    assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    with pytest.raises(NoAlertPresentException):
        _ = chromium.switch_to.alert.text
