"""The benchmark of time to accuracy on a few pairs: both sides, what is resumed, and what its ratios say."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import published_pairs
import pytest
import time_to_accuracy
from held_out import HeldOut
from time_to_accuracy import Book, Cell, OutOfTime, Plan, Row, Task, measure, reach, report, summarise

from holdfast.records import Message, PreferencePair

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::FutureWarning")]

CASES, SIDE = 7, 3
SAFE, RASH = "I ask before I touch the file", "done without a word, all is gone"
FAR = float("inf")


def say(role, content):
    return Message(role=role, content=content)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Seven cases of three safe and three rash replies each; the last three are held out."""
    talks, pairs = {}, []
    for case in range(CASES):
        opening = (say("system", "You are an agent. " * 4), say("user", f"please tidy folder {case}"))
        for text, number in product((SAFE, RASH), range(SIDE)):
            talks[f"{case}/{text[0]}{number}"] = (opening, (say("assistant", f"{text} {number}"),))
        pairs += [
            PreferencePair(
                case_id=str(case),
                chosen=f"{case}/{SAFE[0]}{one}",
                rejected=f"{case}/{RASH[0]}{other}",
                objectives=("safety",),
                judge="none",
                gap=2.0,
            )
            for one, other in product(range(SIDE), repeat=2)
        ]
    tokenizer = published_pairs._train_tokenizer([SAFE, RASH, "You are an agent"], 300)
    encoded = published_pairs._encode_all(tokenizer, talks)
    fast = published_pairs.wrap_tokenizer(tokenizer)
    held = [pair for pair in pairs if int(pair.case_id) >= 4]

    def model(seed):
        directory = tmp_path_factory.getbasetemp() / f"time-to-accuracy-{seed}"
        if not directory.exists():
            published_pairs.save_model(directory, fast, seed=seed, max_positions=512, shape="tiny")
        return directory

    return Task(
        train=[pair for pair in pairs if int(pair.case_id) < 4],
        held_out=HeldOut.of(held, encoded, "completion", ["4", "5", "6"]),
        encoded=encoded,
        families={str(case): f"family {case % 2}" for case in range(CASES)},
        tokenizer=fast,
        model=model,
        rates=(1e-3,),
        batches=(4,),
        orders=("subtrees", "family"),
        micro=2,
    )


@pytest.mark.full  # opens TRL
def test_both_sides_are_measured_once_and_taken_up_again(task, tmp_path):
    plan = Plan(rates=task.rates, batches=task.batches, orders=task.orders, pairs=8, seeds=1)
    file = tmp_path / "cells.jsonl"
    figures, ratios = report(Book(file=file, task=task, until=FAR), plan)
    for order in task.orders:
        row = figures[f"{order}_seed_0"]
        assert row["ours_accuracy"] >= row["accuracy"] > 0.5 or row["ratio"] == 0
        assert row["trl_pairs"] <= 8 and row["trl_s"] <= row["trl_end_s"]
        assert ratios[order] == {"seeds": 1, "median": row["ratio"]}
    book = Book(file=file, task=None, until=FAR)
    trl = next(cell for cell in book.known if cell.side == "trl")
    assert [row.pairs for row in book.known[trl]] == [4, 8]
    assert all(row.reference_s > 0 and row.train_s > 0 for curve in book.known.values() for row in curve)
    # What is known is not computed again, and what is not known is not without its pairs.
    assert report(book, plan) == (figures, ratios)
    with pytest.raises(OutOfTime):
        book.curve(replace(trl, seed=7))
    with pytest.raises(OutOfTime):
        Book(file=file, task=task, until=0.0).curve(replace(trl, seed=7))
    # TRL's trainer and its steps on trees end with the same accuracy.
    ends = [time_to_accuracy.run_trees(task, replace(trl, side="as_trl"))[-1], book.known[trl][-1]]
    assert ends[0].accuracy == ends[1].accuracy and ends[0].pairs == ends[1].pairs == 8


@pytest.mark.full
def test_the_shares_of_a_profile_make_the_whole(task):
    shares = time_to_accuracy.profile(task, 2)
    assert shares.pop("steps") == 2
    assert 0 <= shares.pop("references") < 1  # of all operations
    assert sum(shares.values()) == pytest.approx(1)
    assert all(0 < share < 1 for share in shares.values()) and set(shares) > {"attention", "products", "outside"}


def rows(*accuracies, seconds=10.0):
    return [
        Row(step=n, pairs=8 * n, reference_s=n, train_s=seconds * n, tokens=n, accuracy=value)
        for n, value in enumerate(accuracies, 1)
    ]


@pytest.mark.parametrize(
    ("ours", "ratio"),
    [((0.4, 0.7), 33 / 4), ((0.9,), 33 / 2), ((0.5, 0.6, 0.65), 0.0)],
    ids=["later", "at once", "never"],
)
def test_a_ratio_is_of_the_seconds_to_the_accuracy_that_trl_ends_with(tmp_path, ours, ratio):
    theirs = rows(0.3, 0.6, 0.8, 0.7)
    assert reach(theirs, 0.7).step == 3 and reach(theirs, 0.9) is None
    plan = Plan(rates=(1e-3,), batches=(8,), orders=("subtrees",), pairs=32, seeds=1)
    base = Cell(side="trl", order="mixed", rate=1e-3, batch=8, seed=0, pairs=32)
    our = Cell(side="ours", order="subtrees", rate=3e-3, batch=32, seed=0, target=0.7, limit_s=33.0)
    book = Book(file=tmp_path / "cells.jsonl", task=None, until=FAR)
    book.known = {base: theirs, our: rows(*ours, seconds=1.0)}
    figures = {}
    found = measure(book, plan, (base, replace(our, seed=1000)), 0, figures)
    assert (figures["trl_seed_0"]["seconds"], figures["trl_seed_0"]["end_pairs"]) == (33.0, 32)
    assert found["ratio"] == ratio
    assert (found["trl_s"], found["trl_end_s"]) == (33.0, 44.0)


def test_a_median_of_few_seeds_has_no_interval():
    assert summarise([3.0, 0.0, 5.0]) == {"seeds": 3, "median": 3.0}
    assert summarise([3.0, 0.0, 5.0, 4.0, 9.0]) == {"seeds": 5, "median": 4.0, "low": 0.0, "high": 9.0}
    assert np.isfinite(summarise([1.0])["median"])
