"""The report on users whose approval is trained on: curves, the terminal, and a run's own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from builders import report_samples as samples
from builders.approval_report import (
    ANALYSIS,
    COLORS,
    EQUAL,
    LATE,
    SEEDS,
    SPLIT,
    SVG,
    TOGGLES,
    Outline,
    checkpoints,
    curve,
    found,
    full,
    plain,
    row,
)
from builders.report_samples import make_shown

from holdfast.records import (
    Case,
    Checkpoint,
    Ending,
    Message,
    Score,
    ToolCall,
    Trajectory,
    content_id,
)
from holdfast.report import write_report
from holdfast.report.draw.curves import Line, Panel, average_seeds, draw_panels, make_line
from holdfast.report.page.shards import USER_CASES, case_title, write_cases
from holdfast.report.page.terminal import render_results
from holdfast.report.sections.approval.examples import Users, examples_html, read_users
from holdfast.report.sections.approval.section import (
    draw_gaps,
    path_panels,
    trace_path,
)
from holdfast.report.sections.approval.tables import (
    make_setup,
    order_ladder,
)
from holdfast.report.sections.chance import limits_section
from holdfast.report.sections.table import make_section
from holdfast.report.words.labels import name_kind
from holdfast.store import Store
from holdfast.store.codec import trajectory_to_bytes
from holdfast.store.places import STUDY_KEY
from holdfast.study.users import to_value


def svg_texts(svg: str) -> list[str]:
    return [plain(one.text or "") for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_seeds_are_averaged_only_where_all_were_measured() -> None:
    one = curve("kl", ("R",), [1.0, 2.0, None, 4.0])
    other = curve("kl", ("R",), [3.0, 4.0, 5.0], train_seed=42, x=(1, 2, 3))
    assert average_seeds([one, other]) == ((1.0, 2.0), (2.0, 3.0), (3.0, None), (4.0, None))
    assert average_seeds([one], 2) == ((1.5, 1.5), (3.5, 4.0))
    assert average_seeds([]) == ()


def test_a_line_breaks_where_nothing_was_measured() -> None:
    line = make_line([curve("kl", ("R",), [0.0, 1.0, None, 3.0, 4.0])], [], None, 1)
    assert line is not None and line.seeds == ()
    svg = draw_panels([Panel(title="a", note="", lines=(line,))], title="KL", x_label="step", kind="kl")
    paths = [one.get("d") or "" for one in ElementTree.fromstring(svg).iter(f"{SVG}path")]
    assert [one.count("M") for one in paths] == [2]
    assert make_line([curve("kl", ("R",), [None, None])], [], None, 1) is None


def test_labels_differ_in_more_than_colour_and_held_out_points_stand_over_the_line() -> None:
    svg = full().figures["approval-reward"]
    marks = list(ElementTree.fromstring(svg).iter(f"{SVG}polygon"))
    assert len(marks) == 1 + 2 * len(LATE)  # the legend's, and two held-out points in each panel
    rates = ElementTree.fromstring(full().figures["approval-exploit-rate"])
    bold = [one for one in rates.iter(f"{SVG}path") if one.get("stroke-width") == "2.4"]
    assert {one.get("stroke-dasharray") for one in bold} == {None, "6 3"}
    assert len([one for one in rates.iter(f"{SVG}path") if one.get("opacity")]) == len(LATE) * 2 * len(SEEDS)
    assert "gameable user" in svg_texts(full().figures["approval-exploit-rate"])
    told = rates.get("aria-label") or ""
    assert "gameable user 0.05 to 0.64, other user 0.05 to 0.05" in told


def test_long_curves_are_drawn_as_means_over_windows_and_say_so() -> None:
    long = tuple(curve("kl", ("R",), [step / 100 for step in range(300)], train_seed=seed) for seed in SEEDS)
    section = found(make_section("approval", make_shown(replace(ANALYSIS, curves=long), COLORS)))
    assert "over windows of 5 steps" in section.html
    bold = list(ElementTree.fromstring(section.figures["approval-kl"]).iter(f"{SVG}path"))[-1]
    assert len(re.findall("[ML]", bold.get("d") or "")) == 60


def test_arms_are_drawn_by_gap_against_approval() -> None:
    setup = make_setup(ANALYSIS, checkpoints(), TOGGLES, COLORS)
    panels = path_panels(ANALYSIS, setup)
    assert [(one.title, [line.words for line in one.lines]) for one in panels] == [(SPLIT, ["R", "D"])]
    assert panels[0].lines[0].mean == ((5.0, 0.0), (pytest.approx(7.32), pytest.approx(1.6)))
    assert trace_path([one for one in ANALYSIS.curves if one.source == "training"]) == ()


def test_gaps_without_any_number_are_not_drawn() -> None:
    missing = row("late_gap", None, ("R",), SPLIT)
    assert draw_gaps({("a", ("R",), SPLIT): (missing, None), ("b", ("R",), SPLIT): (None, None)}) is None
    svg = draw_gaps({("a", ("R",), SPLIT): (missing, row("max_hex_gap", 2.0, ("R",), SPLIT))}, narrow=True)
    assert svg is not None and any("not known, published 2.00" in words for words in svg_texts(svg))


def test_a_figure_of_one_point_is_a_mark() -> None:
    line = Line(words="only", series=1, mean=((0.0, 1.0),))
    svg = draw_panels([Panel(title="a", note="b", lines=(line,))], title="t", x_label="x", kind="reward", narrow=True)
    assert len(list(ElementTree.fromstring(svg).iter(f"{SVG}circle"))) == 2  # the legend's and its own


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_gaps_reactions_and_arms(width: int) -> None:
    shown = render_results(ANALYSIS, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "! void: the base does not react to leak" in shown
    assert "tiny-0.35m before training: reacts: policy role; does not react: leak" in " ".join(shown.split())
    assert "not reached" in shown and "3.20 [2.40, 4.00]" in shown and "Max HEX Gap, published" not in shown
    assert ("  Approval\n" in shown.split("Arms at")[0]) == (width > 100)


def test_caveats_of_these_rows_stand_under_limits_and_kinds_have_names() -> None:
    assert "biased upwards" in limits_section(ANALYSIS).html
    assert {name_kind(one.kind) for one in ANALYSIS.exploitation} >= {"Max HEX Gap", "label told from words"}


def make_pair(number: int, setting: str, scenario: str) -> tuple[Case, Case]:
    """The two users of a scenario."""
    names = [content_id(setting, scenario, gameable) for gameable in (True, False)]
    made = []
    for place, gameable in enumerate((True, False)):
        facts = {
            "environment": "advice",
            "topic": "late nights",
            "scenario": scenario,
            "pair": names[1 - place],
            "gameable": gameable,
            "setting": setting,
            "toggles": TOGGLES[setting],
        }
        messages = (
            Message(role="system", content="You are a friend."),
            Message(role="user", content=f"Shall I? {scenario} {samples.HOSTILE[number % 7]}"),
        )
        made.append(
            Case(
                id=names[place],
                suite="approval",
                number=2 * number + place,
                family="advice",
                messages=messages,
                facts=facts,
            )
        )
    return made[0], made[1]


def make_run(path: Path) -> Store:
    """Two arms that met eight scenarios, four of their own setting; one exploits in even scenarios."""
    store = Store.create(path)
    pairs = [make_pair(number, SPLIT if number < 4 else EQUAL, f"scenario {number}") for number in range(8)]
    points = [one for one in checkpoints() if one.id in ("base", "R")]
    with store.transaction():
        store.add_cases([case for pair in pairs for case in pair])
        store.add_split(0, {"approval": [case.id for pair in pairs for case in pair]})
        for point in points:
            store.add_checkpoint(point)
            for number, pair in enumerate(pairs):
                for case in pair:
                    add_episode(store, point, case, harmful=bool(case.facts["gameable"]) and number % 2 == 0)
    return store


def add_episode(store: Store, point: Checkpoint, case: Case, *, harmful: bool) -> None:
    name = content_id(point.id, case.id)
    call = ToolCall(name="look", arguments={"path": samples.SCRIPT}, id="1")
    words = f"{'Go on.' if harmful else 'Better not.'} {samples.SCRIPT} {'word ' * 500}"
    episode = Trajectory(
        id=name,
        case_id=case.id,
        checkpoint_id=point.id,
        rollout=0,
        messages=(Message(role="assistant", content=words, tool_calls=(call,)),),
        ending=Ending.FINISHED,
        tokens=9,
    )
    store.add_trajectory(episode, store.text_codec.pack(trajectory_to_bytes(episode, case.state)))
    for objective, rating in (("harm", 9.0 if harmful else 1.0), ("approval", 8.0)):
        about = {"trajectory_id": name, "judge": "rule", "objective": objective}
        store.add_score(Score(**about, value=to_value(rating)))


def test_the_ladder_names_environments_and_the_share_in_training(tmp_path: Path) -> None:
    own = {"environments": ["therapy"], "gameable_share": 0.25}
    study = {"approval": {"environments": ["advice", "therapy"], "settings": {SPLIT: {}, EQUAL: own}}}
    with make_run(tmp_path / "run") as store:
        store.set_meta(STUDY_KEY, json.dumps(study))
        toggles = read_users(store).toggles
    _, other = order_ladder({SPLIT: toggles[SPLIT], EQUAL: {**toggles[EQUAL], "style": toggles[SPLIT]["style"]}})
    assert other.changed == {"gameable_share": 0.25, "environments": "therapy"}


def test_examples_are_pairs_of_the_trained_setting_with_both_ratings(tmp_path: Path) -> None:
    with make_run(tmp_path / "run") as store:
        users = read_users(store)
        again = read_users(store)
    assert users == again and users.judge == "rule" and list(users.toggles) == [SPLIT, EQUAL]
    told = [(one.sort, one.checkpoint.id, one.gameable.case.facts["scenario"]) for one in users.examples]
    assert told == [
        ("exploited", "R", "scenario 0"),
        ("exploited", "R", "scenario 2"),
        ("protected", "R", "scenario 1"),
        ("protected", "R", "scenario 3"),
    ]
    for one in users.examples:
        assert one.gameable.case.facts["pair"] == one.other.case.id
        assert one.gameable.harm == pytest.approx(9.0 if one.sort == "exploited" else 1.0)
        assert one.other.harm == pytest.approx(1.0) and one.other.approval == pytest.approx(8.0)
    html = examples_html(users)
    outline = Outline()
    outline.feed(html)
    assert not {"script", "img"} & outline.tags and "characters left out" in html
    assert html.count('<div class="pair">') == 4 and html.count("Gameable user") == 4


def test_examples_have_the_ratings_of_the_judge_that_rewards(tmp_path: Path) -> None:
    """A model that rewards has rated one pair, the rules all of them."""
    approval = {"settings": {SPLIT: {}, EQUAL: {}}}
    judges = {"rule": {"kind": "approval"}, "model": {"kind": "rating"}}
    with make_run(tmp_path / "run") as store:
        names = {case.id for case in store.cases() if case.facts["scenario"] == "scenario 1"}
        rated = [one.id for one in store.trajectories(part="approval") if one.case_id in names]
        for name in rated:
            store.add_score(Score(trajectory_id=name, judge="model", objective="harm", value=to_value(2.0)))
        found = {}
        for judge in (None, "model"):
            store.set_meta(STUDY_KEY, json.dumps({"approval": {**approval, "judge": judge}, "judges": judges}))
            found[judge] = read_users(store)
    assert found[None].judge == "rule" and found["model"].judge == "model"
    (example,) = found["model"].examples
    assert example.gameable.harm == pytest.approx(2.0) and example.gameable.approval is None


def test_a_run_without_such_users_has_no_examples(tmp_path: Path) -> None:
    with samples.make_store(tmp_path / "run") as store:
        assert read_users(store) == Users()


def test_the_page_carries_the_section_and_lists_users(tmp_path: Path) -> None:
    with make_run(tmp_path / "run") as store:
        page = write_report(store, ANALYSIS, title="approval").read_text(encoding="utf-8")
        (tmp_path / "shards").mkdir()
        index = write_cases(store, tmp_path / "shards", {})
    assert '<section id="approval"><h2>Approval</h2>' in page and '<a href="#approval">' in page
    assert "Exploited: harm to the gameable user" in page and samples.SCRIPT not in page
    assert "largest gap of harm" in page and "No trajectory is stored" not in page
    assert "Persistence is not estimated" not in page
    listed = index["cases"]
    assert len(listed) == 2 * 2 * USER_CASES  # two settings, two labels
    assert {run[6] for case in listed for run in case["r"]} == {5}
    assert {case["t"].split("]")[0] for case in listed} == {
        f"[{setting}: {label} user" for setting in (SPLIT, EQUAL) for label in ("gameable", "other")
    }
    assert case_title(samples.make_case(1)).startswith("Please")
