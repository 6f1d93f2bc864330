"""What of users, and of stages that learn from rewards, must fit together; errors as in ``checks``."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.records.errors import StudyError, require, require_known
from holdfast.study.kinds import kind_of, suite_of
from holdfast.study.sections import OBJECTIVES
from holdfast.study.stages import OF_USERS, RewardSection, StageSection, TrainingSection
from holdfast.study.tables import RULES, Tables
from holdfast.study.users import ApprovalSection

_GRADIENT_KEYS = ("loss", "scale", "importance", "clip_low", "clip_high", "kl_weight")
# Keys that a method makes nothing of.
INERT: Mapping[str, tuple[str, ...]] = {
    "grpo": ("beta",),
    "best_sft": (*_GRADIENT_KEYS, "beta"),
    "best_dpo": _GRADIENT_KEYS,
    "sft": ("beta", "tokens_per_step"),
}


def check_users(study: Tables) -> None:
    """The users, the judges that rate them, and the bases that some lineages are trained on."""
    _check_only(study)
    _check_beside(study)
    rewarded = [name for name, stage in study.stages.items() if isinstance(stage, RewardSection)]
    own = not suite_of(study.suite).has_cases
    if study.approval is None:
        require(not own, "suite.name is 'approval', but there is no [approval]; say who the users are in [approval]")
        require(not study.raters, f"judges.{(*study.raters, '')[0]} rates users, but there is no [approval]; add it")
        return
    require(bool(study.raters), '[approval] has no judge; add one of kind "approval" or "rating" to [judges.NAME]')
    require(
        bool(study.readers) or own,
        f"no judge reads the cases of {study.suite.name!r}; add one to [judges.NAME], or set suite.name = 'approval'",
    )
    if study.approval.judge is not None:
        require_known(study.approval.judge, study.raters, "approval.judge names", "the judges that rate")
    require(
        rewarded != [] or not own or not study.study.lineages,
        "suite.name is 'approval', which has no cases to make pairs of; train a stage with method 'grpo', 'best_sft' or"
        " 'best_dpo'",
    )
    for lineage in study.study.lineages if own else ():
        paired = [name for name in lineage if isinstance(study.stages[name], StageSection)]
        require(
            not paired, f"stages.{(*paired, '')[0]} learns from pairs, and the suite 'approval' has no cases for it"
        )
    _check_toggles(study, study.approval)
    for key in ("reward_levels", "kl_levels"):
        levels = getattr(study.approval, key)
        require(len(set(levels)) == len(levels), f"approval.{key} repeats a level, found {list(levels)}")


def check_reward_stage(study: Tables, name: str, stage: RewardSection) -> None:
    """A stage on rewards has somebody who rewards, and rollouts of the sort that its method learns from."""
    place = f"stages.{name}"
    practice = _check_rewarder(study, place, stage)
    for steps in study.axes.get("steps", (stage.steps,)):  # an axis goes before a stage's own value
        require(
            steps % stage.every == 0,
            f"{place}.every is {stage.every}, of which steps {steps:g} is no multiple; the last step must be kept",
        )
    key, count, what = practice
    require(
        stage.prompts_per_step <= count,
        f"{place}.prompts_per_step is {stage.prompts_per_step}, but {key} has {count} {what}; lower it or raise that",
    )
    _check_reward_keys(place, stage)
    require(
        stage.method not in ("best_sft", "best_dpo") or not stage.on_policy,
        f"{place}.rollouts is 'policy', but method {stage.method!r} learns from stored ones; give 'start' or 'source'",
    )
    sourced = (stage.source is not None) == (stage.rollouts == "source")
    require(sourced, f"{place}.source goes with rollouts = 'source' alone, found {stage.rollouts!r}")
    permitted = stage.lag == 0 or stage.on_policy
    require(permitted, f"{place}.lag is {stage.lag}, but its rollouts are stored ones, which have no lag; remove it")
    differ = study.rollouts.temperature > 0
    require(differ, f"rollouts.temperature is 0; give more, so that {place} has rollouts that differ")
    if stage.on_policy:
        _check_samplers(study, name, stage)
    if stage.source is not None:
        require_known(stage.source.base, study.model.bases, f"{place}.source.base is", "model.bases")
        require(name not in stage.source.lineage, f"{place}.source.lineage names the stage itself; name another")
        for earlier in stage.source.lineage:
            require_known(earlier, study.stages, f"{place}.source.lineage names", "[stages.…]")
            other = study.stages[earlier]
            require(
                not isinstance(other, RewardSection) or other.source is None,
                f"{place}.source.lineage has {earlier}, which learns from a source itself; name one that does not",
            )


def _check_rewarder(study: Tables, place: str, stage: RewardSection) -> tuple[str, int, str]:
    """Who rewards a stage, its users or a judge: one of the two.

    What it trains on: the key that says how many there are, their number, and what they are called.
    """
    if stage.objective is not None:
        return _check_objectives(study, place, stage)
    if stage.setting is None:
        raise StudyError(
            f"{place} learns from rewards, but says neither whose nor of what; give objective, which the judge of pairs"
            " scores on training cases, or setting, of the users in [approval]"
        )
    if study.approval is None:
        raise StudyError(
            f"{place} learns from rewards, but there is no [approval]; say who gives them in [approval], or give"
            " objective in place of setting"
        )
    require_known(stage.setting, study.approval.settings, f"{place}.setting is", "[approval.settings.…]")
    by_judge = stage.unscored is None
    require(by_judge, f"{place}.unscored is of objective, and users rate what is unreadable themselves; remove it")
    needs_rules = stage.reward in ("success", "mixture")
    answered = not needs_rules or any(study.judges[rater].kind == RULES for rater in study.raters)
    require(answered, f'{place}.reward is {stage.reward!r}, which rules tell; add a judge of kind "approval"')
    return "approval.practice", study.approval.practice, "users"


def _check_objectives(study: Tables, place: str, stage: RewardSection) -> tuple[str, int, str]:
    """A stage that the judge of pairs rewards is of a suite with cases, and says nothing of users."""
    for key in ("setting", *OF_USERS):
        unset = getattr(stage, key) == RewardSection.model_fields[key].default
        require(
            unset, f"{place}.{key} is of users, and objective is what the judge of pairs scores; remove one of them"
        )
    require(bool(stage.objectives), f"{place}.objective is empty; name at least one")
    require(len(set(stage.objectives)) == len(stage.objectives), f"{place}.objective names one twice; give each once")
    for objective in stage.objectives:
        require_known(objective, OBJECTIVES, f"{place}.objective is", "the objectives that judges score")
    suite = suite_of(study.suite)
    require(
        suite.has_cases,
        f"{place}.objective is scored on training cases, and the suite {study.suite.name!r} has users alone; give"
        " setting, or take another suite",
    )
    # What balances measure with is taken out of the training cases where a suite draws no others.
    count = study.suite.train_cases - (study.tuning_cases if suite.reserve is None else 0)
    return "suite.train_cases", count, "cases to train on"


def check_inert(place: str, stage: TrainingSection) -> None:
    """No key is set that the stage's method makes nothing of."""
    for key in INERT.get(stage.method, ()):
        unset = getattr(stage, key) == type(stage).model_fields[key].default
        require(unset, f"{place}.{key} has no effect on method {stage.method!r}; remove it")


def _check_reward_keys(place: str, stage: RewardSection) -> None:
    """No key is set that makes nothing of the stage's rollouts or its reward."""
    check_inert(place, stage)
    useful = stage.importance or not stage.on_policy or stage.lag > 0
    require(useful, f"{place}.importance has no effect on rollouts of the present weights; remove it")
    require(
        stage.grouping is None or stage.on_policy,
        f"{place}.grouping has no effect on rollouts that are stored; remove it",
    )
    require(
        stage.weight == RewardSection.model_fields["weight"].default or stage.reward in ("mixture", "penalized"),
        f"{place}.weight has no effect on reward {stage.reward!r}; remove it, or take 'mixture' or 'penalized'",
    )


def _check_beside(study: Tables) -> None:
    """The suite "approval" has no cases that could be under attack, shifted or searched for."""
    if suite_of(study.suite).has_cases:
        return
    for place in ("attacks", "shifts", "search"):
        require(
            getattr(study, place) is None,
            f"[{place}] is for the cases of a suite, and 'approval' has users alone; remove it, or take another suite",
        )
    tiny = [base for base in study.model.bases if study.entry(base).kind == "tiny"]
    require(
        study.probes is None or not tiny,
        f"[probes] asks {(*tiny, '')[0]!r}, a tiny base, what the suite 'approval' does not teach it; remove it, or"
        " take another suite",
    )


def _check_toggles(study: Tables, section: ApprovalSection) -> None:
    """Toggles that only a judge that is a model sees need one, and turns need room."""
    settings = section.settings
    if not any(kind_of(study.judges[name]).needs == "model" for name in study.raters):
        for key, same in (("judge_role", ("professional", "friend")), ("clause", ("wants", "validation"))):
            found = {value for setting in settings.values() if (value := getattr(setting, key)) in same}
            require(
                len(found) < 2,
                f"approval.settings differ in {key} ({', '.join(sorted(found))}), which has no effect on judges by"
                ' rules; add a judge of kind "rating" or make them equal',
            )
    for name, setting in settings.items():
        tools = "report" in (setting.environments or section.environments)
        least = setting.turns + (1 if tools else 0)
        require(
            study.rollouts.max_turns >= least,
            f"rollouts.max_turns is {study.rollouts.max_turns}, but approval.settings.{name} takes {least} replies:"
            f" {setting.turns} to the user{' and a call' if tools else ''}; raise it",
        )


def _check_samplers(study: Tables, name: str, stage: RewardSection) -> None:
    """vLLM is given an adapter at every step; whole weights are not sent to it, and it adapts 16-bit weights alone."""
    ranks = study.axes.get("lora_r", (stage.lora_r,))  # an axis goes before a stage's own value
    for base in study.model.bases:
        entry = study.entry(base)
        if entry.kind != "vllm" or not any(name in lineage for lineage in study.lineages_of(base)):
            continue
        require(
            0 not in ranks,
            f"stages.{name} samples from {base!r} in vLLM while it trains, which takes adapters alone, and lora_r is 0;"
            " set lora_r, or kind = 'local'",
        )
        require(
            entry.precision == "bf16",
            f"models.{base}.precision is {entry.precision!r}, but vLLM adapts 16-bit weights alone, as stages.{name}"
            " asks for; set precision = 'bf16', or kind = 'local'",
        )


def _check_only(study: Tables) -> None:
    for base, lineages in study.study.only.items():
        require_known(base, study.model.bases, "study.only has", "model.bases")
        for lineage in lineages:
            known = lineage in study.study.lineages
            require(known, f"study.only.{base} has {list(lineage)}, which is none of study.lineages; add it there")
    require(
        not (study.study.only and study.merges),
        "study.only and [merges.…] do not go together: a merge is of lineages on every base; remove one of them",
    )
