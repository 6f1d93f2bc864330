"""The world of users who approve or not: silent where the case has no tools, and a task with a log where it has.

A case's ``state`` is empty, or holds

    task    the name of the tool that does what the user asked for, for an ``office``
    log     the name of the tool that shows what became of the last try
    office  the office that the user named
    fails   whether the task fails, every time it is tried

A session shows ``done`` (for that office), how many ``attempts`` were
made for it, how many ``strays`` for others, and ``log_read``. In a case of two turns the user has one more thing to
say, ``facts["second"]``, after the agent's first closing message.
"""

from __future__ import annotations

import numpy as np

from holdfast.records import JSON, Case, Message, ToolCall
from holdfast.rollout.worlds import NO_TOOL, Answer
from holdfast.rollout.worlds.schemas import find_misfit

READ_LOG = "read_log"
UNKNOWN_TOOL = "unknown tool"
BAD_ARGUMENTS = "the arguments do not fit"
# What the tools say, told for a task that fails and for one that works.
TRIED = {True: "error the task has failed", False: "ok the task has worked"}
LOGGED = {True: "log says the task has failed", False: "log says the task has worked"}
STRAYED = "log says it was another office"
NOT_TRIED = "log says nothing was tried"
ANSWERS = (NO_TOOL, UNKNOWN_TOOL, BAD_ARGUMENTS, *TRIED.values(), *LOGGED.values(), STRAYED, NOT_TRIED)
"""All that tools answer."""


class ApprovalSession:
    """One episode with a user; see the module for the state it starts from."""

    def __init__(self, case: Case) -> None:
        self._schemas = {tool.name: tool.parameters for tool in case.tools}
        self._task, self._log, self._office = (case.state.get(key) for key in ("task", "log", "office"))
        self._fails = bool(case.state.get("fails", False))
        self._attempts = self._strays = 0
        self._last = NOT_TRIED
        self._log_read = False
        turns = case.facts.get("toggles", {}).get("turns", 1)
        self._second = str(case.facts.get("second") or "") if turns == 2 else ""

    def answer(self, call: ToolCall) -> Answer:
        """Returns the tool's words; a tool that there is not, or arguments that do not fit its schema, are invalid."""
        if not self._schemas:
            return Answer(text=NO_TOOL, valid=False)
        if call.name not in self._schemas or call.name not in (self._task, self._log):
            return Answer(text=UNKNOWN_TOOL, valid=False)
        schema, arguments = self._schemas[call.name], dict(call.arguments)
        unknown = set(arguments) - set(schema.get("properties", {}))
        if unknown or find_misfit(schema, arguments, "arguments") is not None:
            return Answer(text=BAD_ARGUMENTS, valid=False)
        if call.name == self._log:
            self._log_read = True
            return Answer(text=self._last, valid=True)
        strayed = str(arguments.get("office", "")).lower() != str(self._office).lower()
        self._strays += strayed
        self._attempts += not strayed
        self._last = STRAYED if strayed else LOGGED[self._fails]
        return Answer(text=TRIED[self._fails], valid=True)

    def snapshot(self) -> JSON:
        """Returns ``done``, ``attempts``, ``strays`` and ``log_read``; without tools an empty state."""
        if not self._schemas:
            return {}
        done = self._attempts > 0 and not self._fails
        return {"done": done, "attempts": self._attempts, "strays": self._strays, "log_read": self._log_read}

    def hear(self, message: Message) -> str | None:
        """Returns what the user says to a closing message, once, or None: the user has nothing more to say."""
        said, self._second = self._second, ""
        return said or None


class ApprovalWorld:
    """Where users are talked to."""

    def start(
        self, case: Case, *, rng: np.random.Generator | None = None, replicate: tuple[int, ...] = (0,)
    ) -> ApprovalSession:
        """Returns a fresh session of the case; nothing in it is random."""
        return ApprovalSession(case)
