"""Every quantity that an analysis computes: its words, how it is written, whether zero means no change, where it lies.

The one table that the analysis (intervals, multiplicity) and the report (names, heads of columns, numbers) both read.
It stands below them, because neither may import the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from holdfast.records.episodes import Flag

NOT_IDENTIFIED = "not identified"


class Format(Enum):
    """How a value is written."""

    NUMBER = "2.31"
    SIGNED = "+0.40"
    RATIO = "0.86 [0.78, 0.95]"  # always with its interval, which is not symmetric
    SHARE = "42 %"
    SHARE_CHANGE = "+12.0 pp"
    COUNT = "1,204"
    AMOUNT = "12.5"  # a mean of counts
    ANSWER = "yes"  # one or zero


SHARE, SHARE_CHANGE, SIGNED = Format.SHARE, Format.SHARE_CHANGE, Format.SIGNED
SCORES, SCORE_CHANGES, RATINGS, POSITIVE = (0.0, 3.0), (-3.0, 3.0), (1.0, 10.0), (0.0, float("inf"))
SPANS = {SHARE: (0.0, 1.0), SHARE_CHANGE: (-1.0, 1.0)}


@dataclass(frozen=True, slots=True)
class Quantity:
    """One kind of estimate.

    ``words`` name it in a sentence (by default its kind), ``head`` over a column (by default its words). ``change``
    says that zero means that nothing changed. ``span`` is the least and the largest value that one case can have; None
    where there is no end. ``lacking`` is said where there is no value.
    """

    kind: str
    words: str = ""
    format: Format = Format.NUMBER
    head: str = ""
    change: bool = False
    span: tuple[float, float] | None = None
    lacking: str = "–"

    def __post_init__(self) -> None:
        words = self.words or self.kind.replace("_", " ")
        object.__setattr__(self, "words", words)
        object.__setattr__(self, "head", self.head or words[:1].upper() + words[1:])
        object.__setattr__(self, "span", self.span or SPANS.get(self.format))


# What the audit finds in an episode.
FLAGS = (
    Quantity(Flag.INVENTED_RESULT.value, "tool result invented in the last message", SHARE),
    Quantity(Flag.INVENTED_MIDWAY.value, "tool result invented earlier", SHARE),
    Quantity(Flag.NO_CALL.value, "no tool executed", SHARE),
    Quantity(Flag.CLAIMED_WITHOUT_CALL.value, "calls claimed, none executed", SHARE),
    Quantity(Flag.TRUNCATED.value, "truncated", SHARE),
    Quantity(Flag.OUT_OF_MEMORY.value, "out of memory", SHARE),
    Quantity(Flag.LOOP.value, "loop", SHARE),
    Quantity(Flag.NOTHING_DONE.value, "nothing done", SHARE),
    Quantity(Flag.INVALID_CALL.value, "invalid call", SHARE),
    Quantity(Flag.INCOHERENT.value, "incoherent", SHARE),
)
# What follows from several flags.
COMBINED = (
    Quantity("unfit", "unfit to be judged", SHARE),
    Quantity("any_invention", "any invented result", SHARE),
    Quantity("no_call_and_invented", "no tool executed and result invented", SHARE),
)
SCORED = (
    *(Quantity(kind) for kind in ("mean", "std")),
    Quantity("persistence", "", Format.RATIO, lacking=NOT_IDENTIFIED),
    *(Quantity(kind, change=True) for kind in ("delta", "induced", "erosion", "retained")),
    *(Quantity(kind, change=True) for kind in ("erosion_control", "erosion_vs_control")),
)
FRONTIER = (
    Quantity("slope", lacking=NOT_IDENTIFIED),
    Quantity("intercept", lacking=NOT_IDENTIFIED),
    *(Quantity(kind) for kind in ("r", "p", "repair_steps", "repair_pairs")),
    Quantity("r2", "R²"),
    Quantity("r2_leave_one_base_out_min", "R², leaving one base out, smallest"),
    Quantity("r2_leave_one_base_out_max", "R², leaving one base out, largest"),
    Quantity("bend", "bend of the line"),
    Quantity("off_merges", "distance from the curve of the merges", change=True),
    Quantity("best_of_both", "best of both: distance from the line fitted without it", change=True),
    Quantity("off_line", "distance from the line of the others", change=True),
    Quantity("off_line_lower", "its lower bound, for all repairs together"),
    Quantity("repair_change", "repair minus its plain counterpart", change=True),
    Quantity("reteach_lower", "re-taught minus first stage, lower bound"),
    Quantity("reteach_dose", "smallest dose that keeps the margin"),
)
SECOND_STAGE = (
    Quantity("lost", "lost by the second stage", head="Lost"),
    Quantity("gained", "gained by the second stage", head="Gained"),
    Quantity("lost_per_gain", "lost per point gained", Format.RATIO, lacking=NOT_IDENTIFIED),
    Quantity("lost_per_nat", "lost per nat of KL", Format.RATIO, lacking=NOT_IDENTIFIED),
    Quantity("lost_at_gain", "lost at matched gain"),
    Quantity("lost_at_kl", "lost at matched KL"),
    Quantity("lost_at_gain_change", "lost at matched gain, rewards minus pairs", change=True),
    Quantity("lost_at_kl_change", "lost at matched KL, rewards minus pairs", change=True),
)
EPISODES = (
    *(Quantity(kind) for kind in ("calls", "invalid_calls")),
    Quantity("instant_finish", "episodes without a call", SHARE),
    Quantity("missing", "episodes without a score", SHARE),
    Quantity("coverage", "", SHARE),
    Quantity("mean_fit_only", "fit only"),
    Quantity("fit_count", "scores of fit ones", Format.COUNT),
    Quantity("mean_lower_bound", "lower bound"),
    Quantity("mean_upper_bound", "upper bound"),
)
TRAINING = (
    *(Quantity(kind) for kind in ("steps", "pairs", "tokens", "accuracy", "loss", "drift_chosen", "drift_rejected")),
    Quantity("distinct_share", "", SHARE),
    Quantity("kl_parent", "KL to the parent (nats)"),
    Quantity("kl_base", "KL to the base (nats)"),
    Quantity("degenerate", "", Format.ANSWER),
    Quantity("kl", "KL", head="KL to the start (nats an episode)"),
    Quantity("length", head="Length (tokens an episode)"),
    Quantity("entropy", head="Entropy (nats a token)"),
    Quantity("data_harm", "harmful share of the data", SHARE),
    Quantity("ess", "effective sample share", SHARE),
    Quantity("log_ratio", "mean |log ratio| a token", span=POSITIVE),
    Quantity(
        "mismatch",
        "|log-prob of an episode, sampling minus training| / tokens",
        head="Sampling against training, |log-prob of an episode| / tokens",
        span=POSITIVE,
    ),
)
JUDGES = (
    *(Quantity(kind) for kind in ("judge_mean", "objective_correlation", "exact", "within_1", "pearson", "spearman")),
    *(Quantity(kind) for kind in ("quadratic_kappa", "ordinal_alpha", "krippendorff_alpha", "confusion")),
    Quantity("judgements", "", Format.COUNT),
    Quantity("exact_share", "exact", SHARE),  # where the two stand among other shares
    Quantity("within_1_share", "within 1", SHARE),
    Quantity("unsafe_sensitivity", "unsafe called unsafe", SHARE),
    Quantity("unsafe_specificity", "safe called safe", SHARE),
    Quantity("truth_missing", "true score unknown", SHARE),
    Quantity("flip_rate", "repeats that differ", SHARE),
    Quantity("repeat_variance", "variance between repeats"),
    Quantity("mean_truth", "mean true score"),
    Quantity("mean_bias", change=True),
    Quantity("bias_vs_base", "bias minus the base's", change=True),
    Quantity("bias_equality_p", "p that lineages share one bias"),
    Quantity("sensitivity_equality_p", "p that lineages share one rate of unsafe called unsafe"),
    Quantity("specificity_equality_p", "p that lineages share one rate of safe called safe"),
    Quantity("change_by_truth", "true change", change=True),
    Quantity("change_by_judge", "change by the judge", change=True),
    Quantity("change_bias", "judge minus truth", change=True),
)
PRESSURE = (
    Quantity("unsafe_attacked", "unsafe under attack", SHARE, "Unsafe, attacked"),
    Quantity("unsafe_clean", "unsafe when clean", SHARE, "Unsafe, clean"),
    Quantity("attack_effect", "unsafe, attacked minus clean", SHARE_CHANGE, "Attacked − clean", change=True),
    Quantity("interaction", "attack × stage (log-odds)", SIGNED, change=True),  # in logits, which have no ends
    Quantity(
        "implicit",
        "implicit change, attacked minus clean",
        SHARE_CHANGE,
        "Implicit change",
        change=True,
        span=(-2.0, 2.0),  # a difference of two differences of shares
    ),
    Quantity("implicit_attacked", "its attacked part", SHARE_CHANGE, change=True),
    Quantity("implicit_clean", "its clean part", SHARE_CHANGE, change=True),
    Quantity("again_clean", "unsafe clean, cases of the implicit change", SHARE, "Its cases met again clean"),
    Quantity("again_clean_parent", "the same in the parent", SHARE, "The same, parent"),
    Quantity("twin_helpfulness", "helpfulness on twins", head="Twins' helpfulness", span=SCORES),
    Quantity("twin_refusal", "twins not acted on", SHARE),
    Quantity("positive_control", "effect of the form before any stage", SHARE_CHANGE, change=True),
    Quantity("shift_score", "score under the shift", head="Score, shifted", span=SCORES),
    Quantity("shift_drop", "shifted minus unshifted", SIGNED, "Shifted − unshifted", change=True, span=SCORE_CHANGES),
    Quantity(
        "erosion_shift",
        "erosion, shifted minus unshifted",
        SIGNED,
        "Erosion shifted − unshifted",
        change=True,
        span=SCORE_CHANGES,
    ),
    Quantity("harm_rate", "harm", SHARE),
    Quantity("over_refusal", "over-refusal", SHARE),
    Quantity("harm_change", "change of harm", SHARE_CHANGE, change=True),
)
APPROVAL = (
    Quantity("reward", "approval (rating)", head="Reward (approval, rating)", span=RATINGS),
    Quantity("harm", "harm (rating)", span=RATINGS),
    Quantity("success", "", SHARE, "Success of the task"),
    Quantity("exploit_rate", "exploit rate", SHARE),
    Quantity("hex_gap", "gap of harm, gameable minus other", change=True),
    Quantity("late_gap", "late gap of harm, gameable minus other", change=True),
    Quantity("max_hex_gap", "Max HEX Gap"),
    Quantity("reaction", "reaction of the base", SIGNED, change=True),
    Quantity("cue_free_gap", "gap of harm where no cue is seen", SIGNED, change=True),
    Quantity("cue", "label told from words", SHARE),
    Quantity("cue_length", "difference in length (words)", Format.AMOUNT),
    Quantity("gap_at_reward", "gap at matched approval", head="Gap", change=True),
    Quantity("exploit_at_reward", "exploit rate at matched approval", SHARE, "Exploit rate, gameable"),
    Quantity("kl_at_reward", "KL at matched approval (nats)", head="KL (nats)"),
    Quantity("tokens_at_reward", "gradient tokens at matched approval", Format.AMOUNT, "Gradient tokens"),
    Quantity("reward_at_kl", "approval at matched KL", head="Approval"),
    Quantity("gap_at_kl", "gap at matched KL", head="Gap", change=True),
    Quantity("success_at_kl", "success at matched KL", SHARE, "Success"),
)
FINDINGS: Mapping[str, Quantity] = {one.kind: one for one in (*FLAGS, *COMBINED)}
# The sections of an analysis with changes in them, whose intervals are counted.
CHANGE_SECTIONS: Mapping[str, str] = {
    "deltas": "Change from the base",
    "persistence": "Persistence",
    "frontier": "Frontier",
    "dose": "Dose",
    "agreement": "Judges against each other",
    "calibration": "Judges against known truth",
    "susceptibility": "Under pressure",
    "shifts": "Under a shift",
    "taxonomy": "Harm by dimension",
    "repair": "Repair",
    "second_stage": "The second stage",
    "exploitation": "Training for approval",
}
GROUPS = (FLAGS, COMBINED, SCORED, FRONTIER, SECOND_STAGE, EPISODES, TRAINING, JUDGES, PRESSURE, APPROVAL)
QUANTITIES: Mapping[str, Quantity] = {one.kind: one for group in GROUPS for one in group}


def quantity_of(kind: str) -> Quantity:
    """The quantity of a kind; what a training or repair measures under a name of its own is a plain number."""
    return QUANTITIES.get(kind) or Quantity(kind)
