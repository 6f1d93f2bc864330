"""What ``holdfast gate`` does."""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from holdfast.cli.arguments import RULE_OPTIONS
from holdfast.decisions.gate.answer import Answer, PassedOn, find_answer, new_place, write_answer
from holdfast.decisions.gate.books import Book, Library, is_same_file, open_library, split_place
from holdfast.decisions.gate.needs import plan_document, plan_gate, render_plan
from holdfast.decisions.gate.outlook import look_ahead
from holdfast.decisions.gate.outputs.document import gate_document
from holdfast.decisions.gate.outputs.junit import render_junit
from holdfast.decisions.gate.outputs.markdown import render_markdown
from holdfast.decisions.gate.outputs.text import render_text
from holdfast.decisions.gate.pairing import CASE, FAMILY, choose_draws
from holdfast.decisions.gate.passing.card import require_dataset
from holdfast.decisions.gate.passing.signing import read_private_key
from holdfast.decisions.gate.rules import TABLE, fingerprint, read_rules
from holdfast.decisions.gate.running import Means, read_study, require_judge, roll_out_again, roll_out_models
from holdfast.decisions.gate.tasks import PREFIX, Trial, run_both
from holdfast.decisions.gate.verdicts import Place, Wanted, compare, decide_all, find_place, take_sides
from holdfast.exchange.scales import ScoreOption, parse_score
from holdfast.records import Outcome, Verdict
from holdfast.records.errors import StudyError, did_you_mean
from holdfast.records.outputs import append_file, to_json, write_file
from holdfast.records.verdicts import WORST_FIRST
from holdfast.report.sections.gate import overall
from holdfast.runs.progress import ProgressLines
from holdfast.runs.rescoring import read_judges
from holdfast.store.choosing import find_checkpoint, parent_of, read_conditions, share_conditions
from holdfast.study.rules import GateSection
from holdfast.study.sections import OBJECTIVES
from holdfast.study.study import Study, read_changes

EXIT_CODES: Mapping[Outcome, int] = {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 3}
AGAIN_SEED = 1  # of --again, unless another is given
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"  # names a file that several commands write to, one after the other


@dataclass(frozen=True, kw_only=True)
class Request:
    """The options of a command, read."""

    options: argparse.Namespace
    where: Mapping[str, str]
    scores: tuple[ScoreOption, ...]
    lines: ProgressLines

    @functools.cached_property
    def output(self) -> Path:
        """The directory of the answer."""
        return self.options.output or new_place(datetime.now().astimezone().date())

    @property
    def means(self) -> Means:
        """How a run of the gate's own is carried out."""
        options = self.options
        return Means(
            workers=options.workers,
            max_calls=options.max_calls,
            max_cost=options.max_cost,
            listener=self.lines.step,
            endpoints={} if options.judges is None else read_judges(options.judges).get("endpoints", {}),
            trusted=options.trust_endpoints,
        )

    def announce(self, studies: Sequence[tuple[Study, Path]], rules: GateSection) -> None:
        """Say what is to come, and have paid calls allowed. Errors: StudyError where nobody allows them."""
        ahead = look_ahead(studies, rules)
        for sentence in (*ahead.sentences, f"the answer goes to {self.output}"):
            self.lines.line(sentence)
        if ahead.paid and self.options.max_cost is None:
            self.allow(ahead.paid, f"about {ahead.calls:,} calls")

    def allow(self, paid: Sequence[str], calls: str) -> None:
        """Have calls to models that may cost money allowed. Errors: StudyError where nobody allows them."""
        if self.options.yes:
            return
        asked = f"{calls} to {', '.join(paid)}"
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise StudyError(f"gate: {asked} may cost money; allow it with --yes, or bound it with --max-cost AMOUNT")
        if not self.lines.ask(f"{asked} may cost money. Go on?"):
            raise StudyError("gate: nothing was asked of any model, as you say")

    @property
    def wanted(self) -> Wanted:
        """What the user says of a comparison beside its rules."""
        return Wanted(judge=self.options.judge, scores=self.scores, most_cases=self.options.cases)

    def rules(self, *books: Book, noted: Mapping[str, Any] | None = None) -> GateSection:
        """The declared rules: of ``--rules``, else of the study that is given or of the books' own."""
        changes = {name: getattr(self.options, f"rule_{name}") for name, _, _ in RULE_OPTIONS.values()}
        if self.options.accept_openings:
            changes["openings"] = "any"
        found = [noted] if noted is not None else [book.study[TABLE] for book in books if TABLE in book.study]
        if self.options.rules is None and any(one != found[0] for one in found):
            raise StudyError("the two runs declare different [gate] tables; declare the rules with --rules FILE")
        return read_rules(file=self.options.rules, noted=found[0] if found else None, changes=changes)


def carry_out(options: argparse.Namespace) -> tuple[str, int]:
    """The text for standard output and the exit code: 0 PASS, 1 FAIL, 3 INCONCLUSIVE.

    Errors: StudyError where nothing can be compared; StepError where a run of the gate's own fails.
    """
    _name_sides(options)
    _check(options)
    passed = _read_passed(options)
    where, scores = read_conditions(options.where), read_scores(options.score)
    with ProgressLines(sys.stderr, quiet=options.quiet) as lines, open_library(scores) as library:
        lines.begin("comparing")
        request = Request(options=options, where=where, scores=scores, lines=lines)
        if options.plan:
            return _plan(request, library), 0
        if options.all:
            answer = _decide_all(request, library)
        else:
            parent, child, rules = _find_sides(request, library)
            if child is None:
                raise StudyError("--child is missing; name the checkpoint, run, log or model that is put to the test")
            answer = find_answer(parent, child, rules, request.wanted, rolled_out=options.suite is not None)
        _write_asked(answer.verdicts, options)
        words = shlex.join(["holdfast", *options.words])
        page = write_answer(answer, request.output, command=words, passed=passed)
    return _tell(answer.verdicts, page, options), EXIT_CODES[overall(answer.verdicts)]


def _name_sides(options: argparse.Namespace) -> None:
    """Read the positional words: a run, or both sides. Errors: StudyError."""
    words, options.run = options.sides, None
    if len(words) == 1:
        options.run = Path(words[0])
    elif words:
        if options.parent is not None or options.child is not None or options.all:
            raise StudyError("gate: two words are the parent and the child; leave out --parent, --child and --all")
        if len(words) > 2:
            raise StudyError(f"gate: takes a run, or a parent and a child; found {len(words)} words")
        options.parent, options.child = words


def _check(options: argparse.Namespace) -> None:
    """Refuse options that would have no effect beside the others. Errors: StudyError."""
    rolls_out = options.suite is not None or options.again
    for given, needed, names in (
        (options.all, not options.plan, "--plan is about one parent and child; leave out --all"),
        (options.output is not None, not options.plan or rolls_out, "--plan writes nothing; leave out -o"),
        (options.base_url is not None, options.suite is not None, "--base-url goes with --suite only; leave it out"),
        (options.judges is not None, options.again, "--judges goes with --again only; leave it out"),
        (options.seed is not None, options.again, "--seed goes with --again only; leave it out"),
        (options.trust_endpoints, options.again, "--trust-endpoints goes with --again only; leave it out"),
        (options.scale is not None, options.suite is not None, "--scale goes with --suite only; leave it out"),
        (options.set, options.suite is not None, "--set goes with --suite only; leave it out"),
        (options.parents, options.suite and not options.again, "--parents goes with --suite, without --again"),
        (options.cases, not options.plan, "--plan says how many cases are needed; leave out --cases"),
        (options.junit or options.markdown, not options.plan, "--plan has no verdict to write; leave out the file"),
        (
            options.model_card,
            not options.plan and not options.all,
            "--model-card is of one comparison; name both sides",
        ),
        (options.hub_dataset is not None, options.model_card, "--hub-dataset goes with --model-card; add it"),
        (options.sign is not None, not options.plan, "--plan has no verdict to sign; leave out --sign"),
        (options.judge == "", False, "--judge is empty; give a judge's name"),
    ):
        if given and not needed:
            raise StudyError(f"gate: {names}")


def _read_passed(options: argparse.Namespace) -> PassedOn:
    """What is passed on, before anything is spent. Errors: StudyError for a key or a name that cannot be used."""
    if options.hub_dataset is not None:
        require_dataset(options.hub_dataset)
    key = None if options.sign is None else read_private_key(options.sign)
    return PassedOn(card=options.model_card, dataset=options.hub_dataset, key=key)


def read_scores(words: Sequence[str]) -> tuple[ScoreOption, ...]:
    """What ``--score`` says of each objective that a gate compares. Errors: StudyError."""
    found: dict[str, ScoreOption] = {}
    for word in words:
        option = parse_score(word)
        if option.objective not in OBJECTIVES:
            near = did_you_mean(option.objective, OBJECTIVES, after=" ")
            raise StudyError(f"--score {word!r}: a gate compares {' and '.join(OBJECTIVES)}; {near}name one of these")
        if option.objective in found:
            raise StudyError(f"--score {word!r}: {option.objective} is named twice; give each once")
        found[option.objective] = option
    return tuple(found.values())


# --- the two sides -----------------------------------------------------------------------------------------------


def _decide_all(request: Request, library: Library) -> Answer:
    options = request.options
    named = [name for name in ("parent", "child", "suite") if getattr(options, name) is not None]
    if options.run is None or named or options.again:
        found = f"--{named[0]}" if named else "--again" if options.again else "no RUN"
        raise StudyError(f"--all compares every checkpoint of RUN, found {found}; give RUN and --where alone")
    book = library.open(options.run)
    rules = request.rules(book)
    verdicts = decide_all(book, rules, request.where, request.wanted, request.lines.line)
    worst = min(verdicts, key=lambda one: WORST_FIRST.index(one.outcome))
    parent, child = (find_place(book, worst, side) for side in ("parent", "child"))
    match = compare(parent, child, rules, request.wanted.ranked)
    return Answer(verdicts=verdicts, books=(book,), shown=(worst, match))


def _find_sides(request: Request, library: Library) -> tuple[Place, Place | None, GateSection]:
    """Both sides and the rules; no child where only a parent is named, as a plan may have it."""
    options = request.options
    if options.suite is not None and options.suite.startswith(PREFIX):
        _run_task(request)
    elif options.suite is not None:
        return _run_suite(request, library)
    if options.child is None:
        if options.parent is None:
            raise StudyError("nothing to compare; give RUN and --child (and --parent), two logs, or --all")
        place, text = split_place(options.parent, options.run)
        book = library.open(place)
        return Place(book, find_checkpoint(book, text, request.where)), None, request.rules(book)
    place, text = split_place(options.child, options.run)
    book = library.open(place)
    other = book if options.parent is None else library.open(split_place(options.parent, options.run)[0])
    if book is not other and book.unseen and is_same_file(book.place, other.place):
        raise StudyError(f"{other.place} and {book.place} are one file; give the logs of two models")
    mine, theirs = share_conditions((book, other), request.where)
    child = Place(book, find_checkpoint(book, text, mine))
    parent = _find_parent(request, library, child, theirs)
    rules = request.rules(parent.book, child.book)
    if options.again:
        require_judge(child.book.study.get("judges", {}), options.judge or rules.judge)
        child = roll_out_again(
            library,
            child.book,
            child.checkpoint,
            again=options.seed or AGAIN_SEED,
            output=options.output,
            means=request.means,
            before=lambda studies: request.announce(studies, rules),
        )
    elif parent.book is child.book and parent.checkpoint.id == child.checkpoint.id:
        raise StudyError(
            f"{child.checkpoint.name}: parent and child are one checkpoint; name two, or roll it out anew with --again"
        )
    return parent, child, rules


def _find_parent(request: Request, library: Library, child: Place, where: Mapping[str, str]) -> Place:
    """The parent that was named; else the child itself for --again, else what its last stage started from."""
    options = request.options
    if options.parent is None:
        same = child.checkpoint if options.again else parent_of(child.book, child.checkpoint)
        return Place(child.book, same)
    place, text = split_place(options.parent, options.run)
    book = library.open(place)
    near = child.checkpoint if book is child.book else None
    return Place(book, find_checkpoint(book, text, where, near))


def _run_task(request: Request) -> None:
    """Run a task of Inspect on both models, and name their logs as the two sides. Errors: StudyError, StepError."""
    options = request.options
    if options.run is not None or options.parent is None or options.child is None:
        raise StudyError(f"--suite {PREFIX}TASK needs both models: holdfast gate PARENT CHILD --suite {options.suite}")
    for given, name in ((options.again, "--again"), (options.scale is not None, "--scale"), (options.plan, "--plan")):
        if given:
            raise StudyError(f"--suite {options.suite}: a task of Inspect has no {name}; leave it out")
    if options.max_cost is not None or options.max_calls is not None:
        raise StudyError(
            f"--suite {options.suite}: Inspect makes the calls, so nothing bounds them; give --yes instead"
        )
    trial = Trial(
        spec=options.suite.removeprefix(PREFIX),
        models=(options.parent, options.child),
        arguments=read_changes(options.set),
        output=request.output,
        most=options.cases,
        base_url=options.base_url,
        scores=request.scores,
    )
    # A sample that was left out is of no other kind than those that were run: nothing more is taken out of the logs.
    options.cases = None
    options.parent, options.child = map(str, run_both(trial, request.lines.line, request.allow))


def _run_suite(request: Request, library: Library) -> tuple[Place, Place, GateSection]:
    options = request.options
    if options.run is not None:
        raise StudyError(f"{options.run}: --suite rolls models out anew; name both, and leave RUN out")
    if options.parent is None or options.child is None:
        raise StudyError("--suite needs both models: holdfast gate PARENT CHILD --suite SUITE")
    study = read_study(options.suite, judge=options.judge, scale=options.scale, changes=options.set)
    rules = request.rules(noted=study.gate.model_dump(mode="json"))
    require_judge(study.judges, options.judge or rules.judge)
    again = (options.seed or AGAIN_SEED) if options.again else None
    parent, child = roll_out_models(
        library,
        study,
        parent=options.parent,
        child=options.child,
        output=request.output,
        means=request.means,
        again=again,
        most_cases=options.cases,
        base_url=options.base_url,
        parents=options.parents,
        before=lambda studies: request.announce(studies, rules),
    )
    return parent, child, rules


# --- what comes of it --------------------------------------------------------------------------------------------


def _plan(request: Request, library: Library) -> str:
    options = request.options
    parent, child, rules = _find_sides(request, library)
    first, second, _ = take_sides(parent, child or parent, rules, request.wanted)
    needs = plan_gate(first, None if child is None else second, rules, power=options.power)
    # A plan of cases leaves out the bounds over families, which a gate may take beside those over cases.
    also = choose_draws(first.families, rules.cluster) == (CASE, FAMILY)
    if options.json:
        made = fingerprint(rules)
        document = plan_document(needs, rules, power=options.power, fingerprint=made, families_too=also)
        return to_json(document)
    pilot = f"{first.name} against itself" if child is None else f"{second.name} against {first.name}"
    return render_plan(needs, rules, power=options.power, pilot=pilot, families_too=also)


def _write_asked(verdicts: Sequence[Verdict], options: argparse.Namespace) -> None:
    """Write the files that were asked for by name."""
    if options.junit is not None:
        write_file(options.junit, render_junit(verdicts))
    if options.markdown is not None:
        # A summary that the steps of a job share gets one part more; any other file is this command's alone.
        write = append_file if os.environ.get(STEP_SUMMARY) == str(options.markdown) else write_file
        write(options.markdown, render_markdown(verdicts))


def _tell(verdicts: Sequence[Verdict], page: Path, options: argparse.Namespace) -> str:
    """The text for standard output."""
    if options.json:
        return to_json({**gate_document(verdicts), "page": str(page)})
    return f"{render_text(verdicts, full=options.full).rstrip(chr(10))}\n\n{page}"
