"""What rewards a stage's rollouts: users and the judge that rates them, or the judge of pairs on training cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from holdfast.judges import Judge
from holdfast.judges.approval.judge import ApprovalJudge
from holdfast.records import Case, Ending, Message, Score, Trajectory
from holdfast.records.errors import StepError
from holdfast.rollout.audit import UNFIT
from holdfast.rollout.worlds import World
from holdfast.runs.methods.rewards.plan import RewardStageSettings, TrainingCases
from holdfast.runs.steps.judging import open_judge_of
from holdfast.runs.steps.reading import cases_of
from holdfast.runs.steps.rollout import LIMITS
from holdfast.store import Store
from holdfast.study.noted import read_rewarder
from holdfast.study.sections import SuiteSection
from holdfast.study.stages import combine_reward
from holdfast.study.tables import RULES
from holdfast.study.users import APPROVAL, PRACTICE, is_exploit, to_rating
from holdfast.suites import open_world

if TYPE_CHECKING:
    from holdfast.training.encoding import Encoded
    from holdfast.training.rl.selection import Rewarded

LOWEST_SCORE = 0.0
# The rules' own name, where they are not the judge that rewards.
_RULES = "rules"
NO_TOKEN = "no token was sampled"
Told = tuple[Sequence[str], Mapping[str, float]]  # why there is no reward, and what there is to watch


class Rewards(Protocol):
    """The cases that a stage trains on, the world that answers in them, and the ``judges`` that score its rollouts."""

    @property
    def cases(self) -> Sequence[Case]: ...

    @property
    def world(self) -> World: ...

    @property
    def judges(self) -> Sequence[Judge]: ...

    def reward(
        self, group: int, case: Case, trajectory: Trajectory, scores: Sequence[Score], encoded: Encoded
    ) -> Rewarded:
        """A rollout with its reward, and what there is to watch of it."""
        ...


def open_rewards(settings: RewardStageSettings, store: Store) -> Rewards:
    """What rewards a stage. Errors: StepError where the run holds no cases to train on."""
    if settings.training is None:
        return _ByUsers(settings, store)
    return _ByJudge(settings, settings.training, store)


class _ByUsers:
    """The users of a setting, and how what is done for them is rewarded."""

    def __init__(self, settings: RewardStageSettings, store: Store) -> None:
        self._section, self._own = settings.section, settings.judge
        practice = (cases_of(store)[name] for name in store.splits()[settings.split_seed].get(PRACTICE, ()))
        self.cases = [case for case in practice if case.facts["setting"] == self._section.setting]
        if not self.cases:
            raise StepError(f"the run holds no users of the setting {self._section.setting!r}; start a new run")
        self.world = open_world(SuiteSection(name=APPROVAL))
        judge = open_judge_of(settings.judge, settings.rater, settings.speaker)
        self.judges: list[Judge] = [judge]
        if not isinstance(judge, ApprovalJudge):
            self.judges.append(ApprovalJudge(name=_RULES))
        # Without rules in the study a model that rewards penalizes by what it says of harm itself.
        rewarder = read_rewarder(store)
        judged = settings.rater.kind != RULES and "harm" in judge.objectives
        self._own_harm = judged and rewarder is not None and not rewarder.beside_rules

    def reward(
        self, group: int, case: Case, trajectory: Trajectory, scores: Sequence[Score], encoded: Encoded
    ) -> Rewarded:
        section, own = self._section, self._own
        means = _means(scores)
        # The rules, which alone tell success, are the ground truth where they were asked.
        named = [judge for judge, objective in means if objective == "success"]
        rules = own if own in named or not named else named[0]
        facts = {"gameable": float(case.facts["gameable"]), "unreadable": float(trajectory.ending is Ending.INCOHERENT)}
        for judge, suffix in {own: "_judge", rules: ""}.items():
            if (judge, "harm") in means:
                rating = to_rating(means[judge, "harm"])
                facts |= {f"harm{suffix}": rating, f"exploited{suffix}": float(is_exploit(rating))}
        if (rules, "success") in means:
            facts["success"] = float(means[rules, "success"] > 0)
        if (own, "approval") in means:
            facts["approval"] = to_rating(means[own, "approval"])
        parts = {name: facts.get(name) for name in ("approval", "success", "harm")}
        if self._own_harm and rules != own:
            parts["harm"] = facts.get("harm_judge")
        reward = combine_reward(section.reward, section.weight, **parts)
        reasons = [score.missing for score in scores if score.judge == own and score.missing]
        return _rewarded(group, trajectory, encoded, reward, (reasons, facts))


class _ByJudge:
    """Training cases of the suite, and the mean of the objectives that the judge of pairs gives their rollouts."""

    def __init__(self, settings: RewardStageSettings, training: TrainingCases, store: Store) -> None:
        self._objectives, self._exclude_unfit = settings.section.objectives, training.exclude_unfit
        known, part = cases_of(store), store.splits()[settings.split_seed].get("train", ())
        self.cases = [known[name] for name in part]
        if not self.cases:
            raise StepError("the run holds no cases to train on; start a new run")
        self.world = open_world(training.suite)
        self.judges = [open_judge_of(settings.judge, settings.rater, settings.speaker)]
        self._own, self._lowest = settings.judge, settings.section.unscored != "left_out"

    def reward(
        self, group: int, case: Case, trajectory: Trajectory, scores: Sequence[Score], encoded: Encoded
    ) -> Rewarded:
        mine = [score for score in scores if score.judge == self._own]
        known = {objective: value for (_, objective), value in _means(mine).items()}
        given = [known[one] for one in self._objectives if one in known]
        # A mean over fewer objectives would be another reward.
        reward = math.fsum(given) / len(given) if len(given) == len(self._objectives) else None
        reasons = [score.missing for score in mine if score.missing and score.objective in self._objectives]
        unfit = sorted(flag.value for flag in UNFIT & set(trajectory.flags))
        if unfit and self._exclude_unfit:
            reward, reasons = None, [f"unfit ({unfit[0]})"]
        spoilt = trajectory.ending not in (Ending.FINISHED, Ending.ERROR) or (bool(unfit) and self._exclude_unfit)
        facts = {**known, "unfit": float(bool(unfit)), "cut_off": float(trajectory.ending in LIMITS)}
        if self._lowest:
            facts["counted_lowest"] = float(reward is None and spoilt)
            reward = LOWEST_SCORE if facts["counted_lowest"] else reward
        return _rewarded(group, trajectory, encoded, reward, (reasons, facts))


def _means(scores: Sequence[Score]) -> dict[tuple[str, str], float]:
    """The mean over repeats of every judge and objective that scored."""
    values: dict[tuple[str, str], list[float]] = {}
    for score in scores:
        if score.value is not None:
            values.setdefault((score.judge, score.objective), []).append(score.value)
    return {key: math.fsum(repeats) / len(repeats) for key, repeats in values.items()}


def _rewarded(group: int, trajectory: Trajectory, encoded: Encoded, reward: float | None, told: Told) -> Rewarded:
    """A rollout with its reward, or with the first of the reasons why it has none."""
    from holdfast.training.rl.selection import Rewarded

    reasons, facts = told
    if not encoded.agent.any():
        reward, reasons = None, [NO_TOKEN]
    return Rewarded(
        group=group,
        case_id=trajectory.case_id,
        encoded=encoded,
        reward=reward,
        missing=None if reward is not None else (*reasons, "unscored")[0],
        logprob=(trajectory.detail or {}).get("logprob"),
        facts=facts,
        text=" ⏎ ".join(_show(message) for message in trajectory.messages),
    )


def _show(message: Message) -> str:
    """A message of a rollout in a line."""
    calls = (f"{call.name}({', '.join(map(str, call.arguments.values()))})" for call in message.tool_calls)
    return " ".join([f"[{message.role}]" if message.role != "assistant" else "", message.content, *calls]).strip()
