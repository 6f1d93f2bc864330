"""What of a study must fit together: names that refer to something, settings that do not contradict each other.

Every check raises StudyError in one line: the place, what was found, what to do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from holdfast.models.entries import TINY
from holdfast.records.errors import StudyError, require, require_known
from holdfast.study.command import CommandSection, check_command
from holdfast.study.elsewhere import check_external
from holdfast.study.kinds import JUDGES, kind_of, suite_of
from holdfast.study.parts import PartSection
from holdfast.study.problems import read_axis
from holdfast.study.rules import check_rules
from holdfast.study.sections import OBJECTIVES, JudgeSection, JudgeTable, SuiteSection
from holdfast.study.stages import (
    AXIS_SETTINGS,
    DEMONSTRATIONS,
    PAIRS,
    TRAJECTORIES,
    DemonstrationSection,
    ExternalSection,
    RewardSection,
    StageSection,
    check_named_data,
)
from holdfast.study.starts import check_starts
from holdfast.study.tables import Tables
from holdfast.study.user_checks import check_inert, check_reward_stage, check_users

MOST_CHECKPOINTS = 20_000
# Keys that choose among data of one kind.
_CHOOSING: Mapping[str, tuple[str, ...]] = {DEMONSTRATIONS: ("count", "mixture"), TRAJECTORIES: ("at_least", "best")}


def check_study(study: Tables) -> None:
    """Every name that the study uses is a name that it defines."""
    _check_names(study)
    check_starts(study)
    for position, lineage in enumerate(study.study.lineages):
        require(len(lineage) > 0, f"study.lineages[{position}] is empty; the base needs no entry, remove it")
        for name in lineage:
            require_known(name, study.stages, f"study.lineages[{position}] names the stage", "[stages.…]")
    _check_rollouts(study)
    _check_doses(study)
    for name, stage in study.stages.items():
        require(bool(name) and "," not in name, f"stages.{name!r}: a stage's name is not empty and has no comma")
        if isinstance(stage, RewardSection):
            check_reward_stage(study, name, stage)
        elif isinstance(stage, StageSection):
            _check_stage(study, name, stage)
        elif isinstance(stage, DemonstrationSection):
            _check_demonstrations(study, name, stage)
        elif isinstance(stage, CommandSection):
            _check_command(study, name, stage)
    check_external(study)
    for name, judge in study.judges.items():
        _check_judge(name, judge)
    probe_judge = None if study.probes is None else study.probes.judge
    for place, wanted in (("pairs", study.pairs.judge), ("gate", study.gate.judge), ("probes", probe_judge)):
        if wanted is not None:
            require_known(wanted, study.judges, f"{place}.judge names", "[judges.…]")
    check_rules(study.gate, "gate")
    _check_world(study)
    _check_endpoints(study)
    _require_distinct(study.study.train_seeds, "study.train_seeds")
    _check_merges(study)
    _check_parts(study)
    _check_search(study)
    _check_axes(study)
    check_users(study)
    _check_size(study)


def _check_doses(study: Tables) -> None:
    """Doses rise from 1, and are of lineages whose last stage has them."""
    for label, doses in study.doses.items():
        require_known(label, study.labels, "doses names the lineage", "study.lineages")
        rising = 1 in doses and list(doses) == sorted(set(doses))
        require(rising, f"doses.{label!r} must rise from 1, found {list(doses)}")
        last = study.stages[label.split(",")[-1]]
        if not isinstance(last, StageSection | DemonstrationSection | CommandSection):
            kept = isinstance(last, RewardSection)
            told = "learns from rewards, which is kept by its own key" if kept else f"is of method {last.method!r}"
            raise StudyError(f"doses.{label!r}: its last stage {told}; remove the doses")
        if isinstance(last, CommandSection):
            continue
        require(
            doses == (1,) or last.schedule == "constant",
            f"doses.{label!r} is {list(doses)}, but its last stage has schedule {last.schedule!r}, under which a"
            ' dose differs from a run of that many steps; use "constant" or the dose 1 alone',
        )


def _check_names(study: Tables) -> None:
    name, model = study.study.name, study.model
    require(
        name.isprintable() and not name.startswith(".") and not {"/", "\\"} & set(name),
        f"study.name is {name!r}; it names the run's directory: no slash, no control character, no dot first",
    )
    for base in model.bases:
        if "/" not in base:  # neither a directory nor a repository on the hub
            require_known(base, {TINY, *study.models}, "model.bases has", "the names in [models.…]")
        entry = study.entry(base)
        require(
            entry.quantization == "none" or not study.study.lineages,
            f"models.{base}.quantization is {entry.quantization!r}: no stage can be put on quantised weights;"
            " leave it out or remove study.lineages",
        )
        require(
            entry.kind != "remote" or not study.study.lineages,
            f"model.bases has {base!r}, a remote model, which cannot be trained here; remove study.lineages to"
            " evaluate it as it is",
        )
    for base in study.study.compare or ():
        require_known(base, model.bases, "study.compare has", "model.bases")
    if study.study.compare is not None:
        _require_distinct(study.study.compare, "study.compare")
    for name, one in study.models.items():
        named = one.kind in ("tiny", "random") or bool(one.name)
        require(named, f"models.{name}.name is missing; give the model's name, repository or directory")
        require(
            one.kind != "random" or one.hidden % (2 * one.heads) == 0 == one.heads % one.key_value_heads,
            f"models.{name}: hidden {one.hidden}, heads {one.heads} and key_value_heads {one.key_value_heads} do"
            " not divide; give a multiple of twice the heads, and heads that are a multiple of key_value_heads",
        )
    divides = model.hidden % (2 * model.heads) == 0
    require(divides, f"model.hidden is {model.hidden} for {model.heads} heads; give a multiple of {2 * model.heads}")
    _require_distinct(model.bases, "model.bases")
    _require_distinct(model.base_seeds, "model.base_seeds")


def _check_rollouts(study: Tables) -> None:
    """Pairs join episodes of one case that went differently."""
    paired = any(
        stage.learns_from == PAIRS
        if isinstance(stage, CommandSection)
        else isinstance(stage, StageSection) and stage.data is None
        for stage in study.stages.values()
    )
    trained = study.study.lineages or any(entry.start for entry in study.models.values())
    if study.pairs.source not in ("base", "parent") or not trained or not paired:
        return
    rollouts, remedy = study.rollouts, "so that a case's episodes can differ; pairs are made of those that do"
    require(rollouts.temperature > 0, f"rollouts.temperature is 0; give more, {remedy}")
    require(rollouts.per_train_case > 1, f"rollouts.per_train_case is 1; give at least 2, {remedy}")


def _check_endpoints(study: Tables) -> None:
    """Every endpoint is of a model that the study uses, and one model has one."""
    used = [*study.models, *study.model.bases, study.suite.world.model, *(one.model for one in study.judges.values())]
    for name in study.endpoints:
        require_known(name, {one for one in used if one}, "endpoints has", "the models of this study")
    places: dict[str, str | None] = {}
    for name in dict.fromkeys(one for one in used if one and study.entry(one).kind == "remote"):
        served, place = study.entry(name).name, study.endpoint(name).base_url
        require(
            places.setdefault(served, place) == place,
            f"endpoints.{name}.base_url is another server of {served}; servers of one name would share replies,"
            " name one of the models differently",
        )


def _check_judge(name: str, judge: JudgeSection | JudgeTable) -> None:
    """A judge has what its kind judges with, and nothing of another kind."""
    kind = kind_of(judge)
    ours = not kind.users or judge.kind in JUDGES.shipped
    require(ours, f"judges.{name}.kind is {judge.kind!r}, which rates users; only kinds that ship do, take another")
    for key in ("rules", "model"):
        given = getattr(judge, key, None) is not None
        require(given or key != kind.needs, f"judges.{name}.{key} is missing, which kind {judge.kind!r} judges by")
        require(not given or key == kind.needs, f"judges.{name}.{key} is for another kind than {judge.kind!r}")
    rubrics = judge.rubrics if isinstance(judge, JudgeSection) else {}
    require(
        not rubrics or kind.rubrics,
        f"judges.{name}.rubrics is for another kind than {judge.kind!r}, which has its own questions; remove it",
    )
    for objective in rubrics:
        require_known(objective, OBJECTIVES, f"judges.{name}.rubrics has", "the objectives that judges score")


def _check_world(study: Tables) -> None:
    suite, world = study.suite, study.suite.world
    used = {name for lineage in study.study.lineages for name in lineage}
    trains = any(not isinstance(study.stages[name], ExternalSection) for name in used)
    trainable = getattr(suite, "split", None) != "none" or not trains
    require(
        trainable, 'suite.split is "none", which leaves no case to train on; remove study.lineages or split the cases'
    )
    emulated = world.kind == "emulated"
    require(
        emulated == (world.model is not None),
        f"suite.world.kind is {world.kind!r} {'without' if emulated else 'with'} a model; a model plays the"
        ' tools in kind "emulated" alone',
    )
    # A gate names its models itself: a study that names and trains none is checked where it is carried out.
    if "model" in study.model_fields_set or study.study.lineages:
        check_taught(study)


def check_taught(study: Tables) -> None:
    """Raise StudyError for a tiny base that the study's suite teaches nothing."""
    record = suite_of(study.suite)
    for base in study.model.bases if record.has_cases and record.teach is None else ():
        entry = study.entry(base)
        require(
            entry.kind != "tiny" or bool(entry.name),
            f"model.bases has {base!r}, a tiny base, which the suite {study.suite.name!r} teaches nothing; take another"
            " base, or give the suite what it teaches",
        )


def _check_merges(study: Tables) -> None:
    """A merge has a name of its own, and is of two lineages of the study."""
    for name, merge in study.merges.items():
        require(bool(name) and "," not in name, f"merges.{name!r}: a name is not empty and has no comma")
        require(name not in study.stages, f"merges.{name} has the name of a stage; give it another")
        for lineage in merge.of:
            require_known(",".join(lineage), study.labels, f"merges.{name}.of names the lineage", "study.lineages")
        require(merge.of[0] != merge.of[1], f"merges.{name}.of names one lineage twice; give two")
        _require_distinct(merge.shares, f"merges.{name}.shares")


def _check_parts(study: Tables) -> None:
    """What is met beside the held-out cases is met by lineages of the study, and read by its judges."""
    labels = study.labels | set(study.merges)
    for place in ("attacks", "shifts", "probes", "approval"):
        part: PartSection | None = getattr(study, place)
        for lineage in () if part is None else part.lineages or ():
            require_known(",".join(lineage), labels, f"{place}.lineages has", "study.lineages and [merges.…]")


def _check_search(study: Tables) -> None:
    if (search := study.search) is None:
        return
    for key, lineage in (("lineage", search.lineage), ("parent", search.parent)):
        for name in lineage:
            require_known(name, study.stages, f"search.{key} names the stage", "[stages.…]")
    require_known(search.maximize, OBJECTIVES, "search.maximize is", "the objectives that judges score")
    for key in ("share", "steps"):
        low, high = getattr(search, key)
        require(low < high, f"search.{key} is {[low, high]}; give the lower bound first, and a higher one")
    name = search.lineage[-1]
    require(
        isinstance(study.stages[name], StageSection),
        f"search.lineage ends in {name}, which learns from no pairs; a search varies how pairs are mixed, name another",
    )
    stage = study.pair_stage(name)
    require(
        len(stage.objectives) == 1 and stage.term is None and stage.balance is None and stage.epochs is None,
        f"search.lineage ends in {name}; a search varies the mixing share and the steps of a stage of one objective:"
        " leave out term, balance and epochs there, or name another lineage",
    )
    require(
        not stage.pairwise and stage.trajectories_per_case is None,
        f"search.lineage ends in {name}, which takes pairs {'one by one' if stage.pairwise else 'by sub-trees'}; mixing"
        " fills steps of pairs_per_step: leave out pairwise and trajectories_per_case",
    )
    require(
        stage.data is None,
        f"search.lineage ends in {name}, whose pairs are a file's; a search mixes the study's own, name another",
    )
    require(search.parent != search.lineage, "search.parent is search.lineage itself; name what it must hold against")
    (low, high), (least, most) = search.share, search.steps
    # Trials differ in whole steps and in hundredths of the share; 1e-9 takes off what floats add to those.
    points = (most - least + 1) * (math.floor(high * 100 + 1e-9) - math.ceil(low * 100 - 1e-9) + 1)
    require(
        search.trials <= points,
        f"search.trials is {search.trials}, but search.share and search.steps hold {points} different trials; lower it"
        " or widen them",
    )


def _check_stage(study: Tables, name: str, stage: StageSection) -> None:
    """A stage's settings fit together, also under every value of the axes."""
    place = f"stages.{name}"
    _require_distinct(stage.objectives, f"{place}.objective")
    for objective in stage.objectives:
        require_known(objective, OBJECTIVES, f"{place}.objective is", "the objectives that judges score")
    check_named_data(place, stage, (), "leave it out for pairs of the study's own")
    require(
        stage.grouping != "family" or not (stage.pairwise or stage.trajectories_per_case),
        f"{place}.grouping is 'family', which fills steps of pairs_per_step; leave out pairwise and"
        " trajectories_per_case",
    )
    for key in ("trajectories_per_case", "tokens_per_step"):
        require(
            not (stage.pairwise and getattr(stage, key)),
            f"{place}.{key} is {getattr(stage, key)}, but pairwise takes pairs one by one; leave one of them out",
        )
    require(
        stage.tokens_per_step is None or stage.trajectories_per_case is not None,
        f"{place}.tokens_per_step is {stage.tokens_per_step}; it bounds sub-trees, set trajectories_per_case too",
    )
    require(
        stage.epochs is None or not (stage.pairwise or stage.trajectories_per_case or "steps" in study.axes),
        f"{place}.epochs counts passes over pairs in steps of pairs_per_step; leave out pairwise,"
        " trajectories_per_case and the axis steps",
    )
    kept = [key for key in ("mix", "term", "balance") if getattr(stage, key) is not None]
    require(
        len(kept) < 2, f"{place} has {' and '.join(kept)}; one of them keeps the second objective, remove the others"
    )
    require(
        stage.data is None or not kept,
        f"{place}.data is a file, and {', '.join(kept)} takes pairs of the study's own rollouts; leave one out",
    )
    for key in kept:
        other = getattr(stage, key).objective
        require_known(other, OBJECTIVES, f"{place}.{key}.objective is", "the objectives that judges score")
        require(other not in stage.objectives, f"{place}.{key}.objective is {other!r}, the stage's own; give the other")
        require(
            not (stage.pairwise or stage.trajectories_per_case or stage.epochs),
            f"{place}.{key} fills steps of pairs_per_step; leave out pairwise, trajectories_per_case and epochs",
        )
    if stage.balance is not None:
        _check_balance(study, place, stage)
    losses = study.axes.get("loss", (stage.loss,))
    require(
        stage.label_smoothing == 0 or set(losses) == {"sigmoid"},
        f"{place}.label_smoothing is {stage.label_smoothing}, which only the loss 'sigmoid' has; found"
        f" {', '.join(map(str, losses))}; set it to 0 or take that loss",
    )


def _check_demonstrations(study: Tables, name: str, stage: DemonstrationSection) -> None:
    """A stage that imitates has episodes to imitate, and no key that it makes nothing of."""
    place = f"stages.{name}"
    for objective in stage.objectives:
        require_known(objective, OBJECTIVES, f"{place}.objective is", "the objectives that judges score")
    check_inert(place, stage)
    check_named_data(place, stage, (DEMONSTRATIONS, TRAJECTORIES), "give 'demonstrations' or 'trajectories'")
    for data, keys in _CHOOSING.items():
        for key in keys if data != stage.data else ():
            unset = getattr(stage, key) == type(stage).model_fields[key].get_default(call_default_factory=True)
            require(unset, f"{place}.{key} chooses among {data}, and data is {stage.data!r}; remove it")
    if stage.data == TRAJECTORIES:
        scored = bool(stage.objectives)
        require(scored, f"{place}.objective is missing: of which scores trajectories are chosen; give one, or several")
    elif stage.data == DEMONSTRATIONS:
        suite = suite_of(study.suite)
        require(
            suite.teach is not None,
            f"{place}.data is 'demonstrations', and the suite {study.suite.name!r} has none; give a file of chats, or"
            " 'trajectories'",
        )
    _check_mixture(study, place, stage.mixture)
    require(
        stage.epochs is None or "steps" not in study.axes,
        f"{place}.epochs counts passes over the data in place of steps; leave out the axis steps",
    )


def _check_mixture(study: Tables, place: str, mixture: Mapping[str, float]) -> None:
    """A stage's own mixture of scripted agents can be drawn from."""
    if not mixture:
        return
    if not isinstance(study.suite, SuiteSection):
        raise StudyError(f"{place}.mixture is for suites that ship; remove it")
    try:
        suite_of(study.suite).check(study.suite.model_copy(update={"mixture": mixture}))
    except StudyError as error:
        raise StudyError(f"{place}.{error}") from error


def _check_command(study: Tables, name: str, stage: CommandSection) -> None:
    _check_mixture(study, f"stages.{name}", stage.mixture)
    suite = suite_of(study.suite)
    check_command(
        f"stages.{name}",
        stage,
        doses=[dose for one in study.study.lineages if one[-1] == name for dose in study.doses_of(one)],
        axes=study.axes,
        teaches=suite.teach is not None,
        has_cases=suite.has_cases,
    )


def _check_balance(study: Tables, place: str, stage: StageSection) -> None:
    """What a balance measures with is in this process and asks nobody."""
    balance = stage.balance
    assert balance is not None
    for name in study.axes.get("pair_judge", (study.pair_judge,)):
        judge = study.judges.get(str(name))
        require(
            judge is None or kind_of(judge).needs != "model",
            f"{place}.balance is measured by the judge of the pairs, {name!r}, which asks a model at every measurement;"
            " give [pairs] judge one of kind state or rules",
        )
    for base in study.model.bases:
        require(
            study.entry(base).kind != "vllm",
            f"{place}.balance samples from the policy in this process, and {base!r} is of kind 'vllm'; give it kind"
            " 'local'",
        )
    alone = stage.devices == 1
    require(alone, f"{place}.balance measures the policy of one process, and devices is {stage.devices}; set it to 1")
    bounded = balance.initial <= balance.most
    require(bounded, f"{place}.balance.initial is {balance.initial}, above most, {balance.most}; lower it")


def _check_axes(study: Tables) -> None:
    for axis, values in study.axes.items():
        require_known(axis, (*AXIS_SETTINGS, "split_seed", "pair_judge"), "axes has", "the axes there are")
        for value in values if axis == "pair_judge" else ():
            require_known(str(value), study.judges, "axes.pair_judge names", "[judges.…]")
        _require_distinct([read_axis(axis, value) for value in values], f"axes.{axis}")


def _check_size(study: Tables) -> None:
    """Refuse a study of more checkpoints than anybody means: axes multiply."""
    points = math.prod(len(values) for values in study.axes.values())
    copies = len(study.model.base_seeds) * len(study.study.train_seeds) * points
    kept = sum(_kept_of(study, lineage) for base in study.model.bases for lineage in study.lineages_of(base))
    planned = kept * copies
    require(
        planned <= MOST_CHECKPOINTS,
        f"the study has {planned:,} checkpoints, more than {MOST_CHECKPOINTS:,}: lineages, doses, seeds and the values"
        " of axes multiply; give fewer of them, or several studies",
    )


def _kept_of(study: Tables, lineage: tuple[str, ...]) -> int:
    """How many checkpoints the last stage of a lineage keeps."""
    last = study.stages[lineage[-1]]
    if isinstance(last, ExternalSection):
        return len(last.digests)
    if not isinstance(last, RewardSection):
        return len(study.doses_of(lineage))
    return max(int(steps) for steps in study.axes.get("steps", (last.steps,))) // last.every


def _require_distinct(values: Sequence[object], place: str) -> None:
    require(len(values) > 0, f"{place} is empty; give at least one value")
    require(len(set(values)) == len(values), f"{place} repeats a value, found {list(values)}; give each once")
