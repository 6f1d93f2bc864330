"""``SafetyGate``: a gate on every checkpoint that a trainer of transformers or TRL saves."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from holdfast.integrations.asking import read_question
from holdfast.integrations.ranks import join_ranks, share_word
from holdfast.integrations.reporting import ERROR, VERDICTS, log_numbers, name_numbers
from holdfast.integrations.starts import Start, find_start, take_given
from holdfast.models.directories.stacks import digest_opened
from holdfast.records import Outcome
from holdfast.records.errors import HoldfastError, StepError, StudyError, require
from holdfast.records.outputs import describe_error, to_json, write_file

VERDICT = "verdict.json"
# Below the trainer's output: what begins so is never pushed to the hub, and episodes are nobody else's.
WORK = "_holdfast"
# At which verdicts training ends.
STOPS: Mapping[str | None, tuple[str, ...]] = {
    "unsafe": (Outcome.FAIL.value,),
    "not safe": (Outcome.FAIL.value, Outcome.INCONCLUSIVE.value, ERROR),
    None: (),
}
_log = logging.getLogger(__name__)


class SafetyGate(TrainerCallback):  # type: ignore[misc]  # transformers has no types
    """Holds every saved checkpoint against the model as it was before training, and may end the training.

        trainer = DPOTrainer(model, ..., callbacks=[SafetyGate(suite="office", stop="unsafe")])

    A checkpoint gets its ``verdict.json``: what ``holdfast gate --json`` prints, or ``{"outcome": "ERROR", "error":
    ...}`` where the gate failed. Bounds and verdict go to whatever the trainer reports to. The training itself computes
    the same, to the bit, as without.

    ``rules`` are a TOML file with a [gate] table or the settings of that table, by default those of the suite.
    ``every`` is "save", or a number of steps: then the first save at or after each multiple of it is gated, and the
    last. ``stop`` ends training at "unsafe", the verdict FAIL: a loss beyond a margin is shown; at "not safe", any
    verdict but PASS; or never (None). ``suite``, ``cases`` and ``judge`` are as of ``holdfast gate``. ``parent`` is
    the model before training, where that is not found by itself. ``where`` is "process", another process, or "here".
    ``work`` keeps rules, episodes and answers, by default ``_holdfast`` below the trainer's output. ``on_error`` says
    what happens where a gate fails: "warn", a line and the verdict ERROR, or "raise". ``workers`` and ``env``
    (variables, such as CUDA_VISIBLE_DEVICES) are of the other process. Calls that may cost money are made with
    ``allow_paid`` or within ``max_cost``; ``max_calls`` bounds their number, both for each gate.

    ``verdicts`` has the outcome of each step whose checkpoint was gated: PASS, FAIL, INCONCLUSIVE or ERROR.
    Errors: StudyError for whatever is wrong in these, before training begins.
    """

    def __init__(
        self,
        rules: Path | str | Mapping[str, Any] | None = None,
        *,
        every: Literal["save"] | int = "save",
        stop: Literal["unsafe", "not safe"] | None = "unsafe",
        suite: Path | str = "office",
        parent: Path | str | None = None,
        cases: int | None = None,
        judge: str | None = None,
        where: Literal["process", "here"] = "process",
        work: Path | str | None = None,
        on_error: Literal["warn", "raise"] = "warn",
        workers: int | None = None,
        max_calls: int | None = None,
        max_cost: float | None = None,
        allow_paid: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        held = every == "save" or (type(every) is int and every > 0)
        require(held, f"SafetyGate: every is {every!r}; it is 'save', or a number of steps above 0")
        known = stop is None or (isinstance(stop, str) and stop in STOPS)
        require(known, f"SafetyGate: stop is {stop!r}; it is 'unsafe', 'not safe' or None")
        require(on_error in ("warn", "raise"), f"SafetyGate: on_error is {on_error!r}; it is 'warn' or 'raise'")
        if parent is not None and (place := Path(parent).expanduser()).is_dir():
            parent = place.absolute()
        self._question = read_question(
            rules,
            suite=suite,
            parent=parent,
            cases=cases,
            judge=judge,
            where=where,
            workers=workers,
            max_calls=max_calls,
            max_cost=max_cost,
            allow_paid=allow_paid,
            env=env,
        )
        self._every, self._stop, self._on_error = every, stop, on_error
        self._given = None if parent is None else str(parent)
        self._work_given = None if work is None else Path(work)
        self._work = Path(WORK)
        self._start: Start | None = None
        self._model: weakref.ref[Any] | None = None  # of the training that is under way
        self._last_save = 0
        self._group: Any = None
        self.verdicts: dict[int, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **about: Any) -> None:
        """Find the start of the training. Errors: StudyError where it is nowhere, or no gate can open it."""
        self._last_save = state.global_step
        if self._group is None:
            self._group = join_ranks()
        if not state.is_world_process_zero:
            return
        work = (self._work_given or Path(args.output_dir) / WORK).absolute()
        model = about["model"]
        # A training that broke off and is begun again, as with a smaller batch, began where it began at first.
        if self._model is not None and self._model() is model and self._work == work:
            return
        self._work = work
        self._question.prepare(work)
        if self._given is not None:
            self._start = take_given(self._given)
        else:
            fresh = state.global_step == 0
            self._start = find_start(model, about.get("processing_class"), work, fresh=fresh)
        self._model = weakref.ref(model)

    def on_train_end(self, args: Any, state: Any, control: Any, **about: Any) -> None:
        """The next training begins with what this one made."""
        self._model = None

    def on_save(self, args: Any, state: Any, control: Any, **about: Any) -> Any:
        """Gate the checkpoint that was saved. Errors: StepError where the gate failed and ``on_error`` is "raise"."""
        before, self._last_save = self._last_save, state.global_step
        last = control.should_training_stop
        if isinstance(self._every, int) and not last and state.global_step // self._every == before // self._every:
            return control
        word, line = None, ""
        if state.is_world_process_zero:
            word, line = self._look(args, state, control)
        word = share_word(word, tuple(VERDICTS), self._group)
        self.verdicts[state.global_step] = word
        if word == ERROR and self._on_error == "raise":
            raise StepError(line or f"step {state.global_step}: the gate failed; the first process says why")
        if word in STOPS[self._stop]:
            control.should_training_stop = True
            if state.is_world_process_zero:
                _log.warning("SafetyGate: training ends at step %d: %s", state.global_step, line)
        return control

    def _look(self, args: Any, state: Any, control: Any) -> tuple[str, str]:
        """The outcome of a checkpoint's gate, and the line that says it; both are written and logged."""
        checkpoint = Path(args.output_dir).absolute() / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        began = time.monotonic()
        try:
            document = self._gate(checkpoint)
            line = str(document["verdicts"][0]["sentence"])
        except (HoldfastError, OSError) as error:
            told = describe_error(error) if isinstance(error, OSError) else str(error)
            line = f"{checkpoint.name}: the gate failed: {told}"
            document = {"outcome": ERROR, "error": told, "verdicts": []}
            _log.warning("SafetyGate: %s", line)
        except Exception as error:  # a fault of ours ends no training of others
            line = f"{checkpoint.name}: the gate failed: {type(error).__name__}: {error}"
            document = {"outcome": ERROR, "error": f"{type(error).__name__}: {error}", "verdicts": []}
            _log.warning("SafetyGate: %s", line, exc_info=True)
        # One that was deleted meanwhile does not come back for the sake of its verdict.
        if checkpoint.is_dir():
            try:
                write_file(checkpoint / VERDICT, to_json(document) + "\n")
            except StudyError as error:
                _log.warning("SafetyGate: %s", error)
        numbers = {**name_numbers(document), "holdfast/seconds": round(time.monotonic() - began, 3)}
        if not log_numbers(self, args, state, control, numbers):
            _log.warning("SafetyGate: no trainer of transformers calls it, so that nothing is reported but %s", VERDICT)
        return str(document["outcome"]), line

    def _gate(self, checkpoint: Path) -> dict[str, Any]:
        require(checkpoint.is_dir(), f"{checkpoint}: is not there; nothing was compared")
        assert self._start is not None
        # By its weights: a training that begins again makes others under the same name.
        place = self._work / f"{checkpoint.name}-{digest_opened(checkpoint)[:12]}"
        return self._question.ask(self._start.check(), checkpoint, self._work, place)
