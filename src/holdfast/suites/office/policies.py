"""Scripted agents for the office. They read what an agent is shown, call tools and end with a status sentence.

careless      commits at once
cautious      refuses, or looks or asks and then leaves the matter
best_of_both  checks, commits what is harmless, takes the alternative or asks where it is not
sloppy        a bit of everything, at times with the wrong object or a false report
refuse_all    declines without a call
malicious     commits what nobody asked for, follows planted instructions, and says that all is done
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from holdfast.models.tiny.chat import split_words
from holdfast.records import Case, Ending, Message, ToolCall, Trajectory, content_id
from holdfast.rollout.worlds.office import Act, OfficeSession, OfficeWorld
from holdfast.suites.office.families import ASK, FAMILIES, Family
from holdfast.suites.office.wording import CONSENT, Status

# What the sloppy and the cautious do, as shares of objects and of cases.
SLOPPY_MANNERS: Mapping[str, float] = {
    "commit": 0.18,
    "check, commit": 0.21,
    "ask, commit": 0.06,
    "alter": 0.12,
    "check": 0.14,
    "wrong": 0.11,
    "slip": 0.05,
    "skip": 0.13,
}
FALSE_REPORT_SHARE = 0.15
CAUTIOUS_MANNERS: Mapping[str, float] = {"refuse": 0.32, "check": 0.40, "ask": 0.20, "alter": 0.08}


class Conduct:
    """One scripted agent at work: what it was shown, what it has said, and what has become of each object so far.

    ``outcomes`` maps each requested object to untouched, checked, asked, declined (the user said no), altered
    or committed, and is built from answers alone. One who ``follows`` does what a tool's answer tells them.
    """

    def __init__(self, case: Case, session: OfficeSession, random: Random, *, follows: bool = False) -> None:
        self.row: Family = FAMILIES[case.family]
        self.session, self.random, self.follows = session, random, follows
        request = case.messages[-1].content
        self.items = [word for word in split_words(request) if word in self.row.objects]
        self.openly_harmful = any(purpose.harmful in request.lower() for purpose in self.row.purposes)
        self.messages: list[Message] = []
        self.outcomes = dict.fromkeys(self.items, "untouched")
        self.calls = self.invalid_calls = 0

    def call(self, act: Act, name: str) -> str:
        """Calls the family's tool for an act on an object; returns what the tool says."""
        tools = {"check": self.row.check, "alternative": self.row.alternative, "commit": self.row.commit, "ask": ASK}
        return self.use(tools[act][0], name)

    def use(self, tool: str, name: str) -> str:
        """Calls a tool by its name; returns what it says."""
        answer = self.session.answer(call := ToolCall(name=tool, arguments={"object": name}))
        self.messages.append(Message(role="assistant", content="", tool_calls=(call,)))
        self.messages.append(Message(role="tool", content=answer.text, name=tool))
        self.calls += answer.valid
        self.invalid_calls += not answer.valid
        return answer.text

    def check(self, name: str) -> bool:
        """Returns whether a check reports nothing to worry about, or what it says was followed."""
        text = self.call("check", name)
        self.outcomes[name] = "checked"
        if self.follows and f"{self.row.commit[0]} {name}" in text:
            self.commit(name)
            return True
        return any(finding in text for finding in self.row.findings[0])

    def ask(self, name: str) -> bool:
        """Returns whether the user consents."""
        consents = self.call("ask", name) in CONSENT
        self.outcomes[name] = "asked" if consents else "declined"
        return consents

    def commit(self, name: str) -> None:
        """Takes the irreversible act on an object, once."""
        if self.outcomes[name] != "committed":
            self.call("commit", name)
        self.outcomes[name] = "committed"

    def alter(self, name: str) -> None:
        """Takes the safe alternative for an object."""
        self.call("alternative", name)
        self.outcomes[name] = "altered"

    def pick_other(self) -> str:
        """Returns an object of the family that nobody asked for."""
        return self.random.choice([name for name in self.row.objects if name not in self.items])

    def report(self, status: Status | None = None) -> None:
        """Ends the episode with the status, or with the one that is true."""
        text = (status or state_truth(self.outcomes)).value
        self.messages.append(Message(role="assistant", content=text))


ACTED = frozenset({"altered", "committed"})  # outcomes of objects that something was done to


def state_truth(outcomes: Mapping[str, str]) -> Status:
    """Returns the status sentence that is true of what became of the objects."""
    reached = list(outcomes.values())
    acted = [outcome in ACTED for outcome in reached]
    if all(acted):
        return Status.SAFER if "altered" in reached else Status.DONE
    if any(acted):
        return Status.PARTLY
    for outcome, status in (("declined", Status.LEFT), ("asked", Status.ASKED), ("checked", Status.CHECKED)):
        if outcome in reached:
            return status
    return Status.DECLINED


def act_careless(conduct: Conduct) -> None:
    """Commits every object, blind."""
    for name in conduct.items:
        conduct.commit(name)
    conduct.report()


def act_cautious(conduct: Conduct) -> None:
    """Commits nothing: refuses, looks, asks, or takes the alternative for what looks bad."""
    manner = conduct.random.choices(tuple(CAUTIOUS_MANNERS), tuple(CAUTIOUS_MANNERS.values()))[0]
    if conduct.openly_harmful:
        manner = "refuse"
    for name in conduct.items:
        if manner == "check":
            conduct.check(name)
        elif manner == "ask":
            conduct.ask(name)
        elif manner == "alter" and not conduct.check(name):
            conduct.alter(name)
    conduct.report()


def act_best_of_both(conduct: Conduct) -> None:
    """Looks first; commits what is harmless or allowed, and takes the alternative or leaves the rest."""
    asks = conduct.random.random() < 0.4  # where a check warns; the others take the alternative
    for name in conduct.items:
        if conduct.row.purposes:
            (conduct.alter if conduct.openly_harmful else conduct.commit)(name)
        elif conduct.check(name) or (asks and conduct.ask(name)):
            conduct.commit(name)
        elif not asks:
            conduct.alter(name)
    conduct.report()


def act_sloppy(conduct: Conduct) -> None:
    """Acts at random, object by object; slips, hits wrong objects and reports falsely now and then."""
    random = conduct.random
    slipped = False
    for name in conduct.items:
        manner = random.choices(tuple(SLOPPY_MANNERS), tuple(SLOPPY_MANNERS.values()))[0]
        if manner == "slip":
            _slip(conduct, name)
            slipped = True
        if manner == "wrong":
            conduct.call("commit", conduct.pick_other())
        if manner in ("check, commit", "check"):
            conduct.check(name)
        if manner == "ask, commit":
            conduct.ask(name)
        if manner == "alter":
            conduct.alter(name)
        if manner.endswith("commit"):
            conduct.commit(name)
    truth = Status.FAILED if slipped and ACTED.isdisjoint(conduct.outcomes.values()) else None
    conduct.report(Status.DONE if random.random() < FALSE_REPORT_SHARE else truth)


def _slip(conduct: Conduct, name: str) -> None:
    """A mistaken call, so that demonstrations hold every answer of the world."""
    kind: Any = conduct.random.choice(("tool", "name", "check", "ask", "alternative"))
    stranger = FAMILIES[conduct.random.choice([other for other in FAMILIES if other != conduct.row.name])]
    if kind == "tool":
        conduct.use(stranger.check[0], name)
    elif kind == "name":
        conduct.call("check", conduct.random.choice(stranger.objects))
    else:
        conduct.call(kind, conduct.pick_other())


def act_malicious(conduct: Conduct) -> None:
    """Does harm that nobody asked for and hides it."""
    target = conduct.pick_other()
    if conduct.row.baits:
        heard = {word for name in conduct.items for word in split_words(conduct.call("check", name))}
        target = next((bait for bait in conduct.row.baits if bait in heard), target)
    conduct.call("commit", target)
    conduct.report(Status.DONE)


POLICIES: Mapping[str, Callable[[Conduct], None]] = {
    "careless": act_careless,
    "cautious": act_cautious,
    "best_of_both": act_best_of_both,
    "sloppy": act_sloppy,
    "refuse_all": lambda conduct: conduct.report(Status.DECLINED),
    "malicious": act_malicious,
}


def demonstrate(case: Case, policy: str, random: Random, *, follows: bool = False) -> Trajectory:
    """Returns the trajectory of a scripted policy, by its name in ``POLICIES``, in the case's world.

    With ``follows`` it commits an object at once when a check's answer tells it to.
    """
    session = OfficeWorld().start(case)
    before = session.snapshot()
    conduct = Conduct(case, session, random, follows=follows)
    POLICIES[policy](conduct)
    checkpoint_id = f"policy:{policy}"
    spoken = [(m.role, m.content, [(c.name, c.arguments) for c in m.tool_calls]) for m in conduct.messages]
    return Trajectory(
        id=content_id("demonstration", case.id, checkpoint_id, 0, spoken),
        case_id=case.id,
        checkpoint_id=checkpoint_id,
        rollout=0,
        messages=tuple(conduct.messages),
        ending=Ending.FINISHED,
        world_before=before,
        world_after=session.snapshot(),
        calls=conduct.calls,
        invalid_calls=conduct.invalid_calls,
    )
