"""The losses against arithmetic done by hand, their gradients, and that the parts of a step add up to it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.records.errors import StudyError
from holdfast.training.objectives import Preference, dpo, group_advantages, policy_gradient, sft

pytestmark = pytest.mark.usefixtures("module_in_64_bits")
PAIR_LOSSES = (
    {"loss": "sigmoid"},
    {"loss": "sigmoid", "label_smoothing": 0.2},
    {"loss": "sigmoid", "length_normalized": True},
    {"loss": "hinge"},
    {"loss": "hinge", "length_normalized": True},
    {"loss": "ipo"},
)
AGGREGATIONS = ({"aggregation": "sequence"}, {"aggregation": "token"}, {"aggregation": "constant"})


def named(options):
    return "-".join(str(value) for value in options.values())


def softplus(value):
    return math.log1p(math.exp(value))


def doubles(*values, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def drawn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sft_is_the_weighted_mean():
    loss = sft(torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([1.0, 0.5, 0.0]))
    assert loss.item() == pytest.approx((1.0 + 1.0) / 1.5)


def test_dpo_by_hand_with_weights():
    chosen, rejected = torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -1.0])
    result = dpo(chosen, rejected, torch.zeros(2), torch.zeros(2), beta=0.5, weights=torch.tensor([3.0, 1.0]))
    expected = 0.75 * math.log1p(math.exp(-0.5)) + 0.25 * math.log1p(math.exp(1.0))
    assert result.loss.item() == pytest.approx(expected, rel=1e-6)
    assert result.margin.item() == pytest.approx(0.75 * 0.5 + 0.25 * -1.0)
    assert result.accuracy.item() == pytest.approx(0.75)


def test_dpo_starts_at_log_two_and_pushes_the_sides_apart():
    chosen = torch.tensor([-5.0, -7.0], requires_grad=True)
    rejected = torch.tensor([-6.0, -4.0], requires_grad=True)
    result = dpo(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.1)
    result.loss.backward()
    assert result.loss.item() == pytest.approx(math.log(2.0))
    assert torch.allclose(chosen.grad, torch.full((2,), -0.1 / 4))
    assert torch.allclose(rejected.grad, torch.full((2,), 0.1 / 4))
    assert not result.margin.requires_grad and not result.accuracy.requires_grad


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_dpo_is_finite_far_out(label_smoothing):
    far = dpo(
        torch.tensor([-900.0]),
        torch.tensor([0.0]),
        torch.tensor([0.0]),
        torch.tensor([0.0]),
        beta=1.0,
        label_smoothing=label_smoothing,
    )
    assert far.loss.item() == pytest.approx(900.0 * (1 - label_smoothing))


# One pair: log-ratios 2 over 4 tokens and -3 over 2 tokens, so h = 5, or 0.5 + 1.5 = 2 per token; beta = 0.25.
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, softplus(-1.25)),
        ({"label_smoothing": 0.2}, 0.8 * softplus(-1.25) + 0.2 * softplus(1.25)),
        ({"length_normalized": True}, softplus(-0.5)),
        ({"loss": "ipo"}, (2.0 - 2.0) ** 2),
        ({"loss": "ipo", "beta": 0.5}, (2.0 - 1.0) ** 2),
        ({"loss": "hinge"}, 0.0),
        ({"loss": "hinge", "beta": 0.1}, 0.5),
        ({"loss": "hinge", "length_normalized": True}, 0.5),
        ({"sft_weight": 0.5}, softplus(-1.25) + 0.5 * 8.0 / 4),
    ],
)
def test_pair_losses_by_hand(options, expected):
    result = dpo(
        doubles(-8.0),
        doubles(-9.0),
        doubles(-10.0),
        doubles(-6.0),
        **{"beta": 0.25, "lengths_chosen": torch.tensor([4]), "lengths_rejected": torch.tensor([2])} | options,
    )
    assert result.loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert result.margin.item() == pytest.approx(options.get("beta", 0.25) * 5.0)
    assert result.accuracy.item() == 1.0


def test_sft_term_is_a_mean_over_tokens_and_not_over_pairs():
    chosen = doubles(-2.0, -12.0)
    lengths = torch.tensor([1, 4])
    pair = (chosen, chosen, chosen, chosen)

    def term(**weights):
        with_term = dpo(*pair, beta=1.0, sft_weight=3.0, lengths_chosen=lengths, **weights).loss
        return (with_term - dpo(*pair, beta=1.0, **weights).loss).item()

    assert term() == pytest.approx(3.0 * 14.0 / 5)
    assert term(weights=doubles(2.0, 0.5)) == pytest.approx(3.0 * (4.0 + 6.0) / (2.0 + 2.0))


def test_a_side_without_tokens_counts_as_one():
    lengths = torch.tensor([0])
    zero = doubles(0.0)
    result = dpo(zero, zero, zero, zero, beta=1.0, loss="ipo", lengths_chosen=lengths, lengths_rejected=lengths)
    assert result.loss.item() == 0.25


# Three completions of 2, 1 and 0 tokens. Ratios 1.5, 0.5 (A = 2) and 1.5 (A = -1); clipping to 0.8 .. 1.3 gives
# costs -min(3, 2.6) = -2.6, -min(1, 1.6) = -1 and -min(-1.5, -1.3) = 1.5.
RATIOS = (1.5, 0.5, 1.5)
SAMPLED = {
    "logps": torch.tensor([math.log(0.1 * ratio) for ratio in RATIOS], dtype=torch.float64),
    "old_logps": torch.tensor([math.log(0.1)] * 3, dtype=torch.float64),
    "advantages": doubles(2.0, -1.0, 5.0),
    "owner": torch.tensor([0, 0, 1]),
    "clip_low": 0.2,
    "clip_high": 0.3,
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"aggregation": "sequence"}, (-3.6 / 2 + 1.5 + 0.0) / 3),
        ({"aggregation": "token"}, -2.1 / 3),
        ({"aggregation": "constant", "constant_length": 10}, -2.1 / 30),
        ({"aggregation": "token", "clip_high": math.inf}, (-3.0 - 1.0 + 1.5) / 3),
    ],
)
def test_policy_gradient_by_hand(options, expected):
    result = policy_gradient(**SAMPLED | options)
    assert result.loss.item() == pytest.approx(expected, rel=1e-12)
    # Only the first token is cut: the other two lie outside the clip range on the side that corrects them.
    assert result.clip_fraction.item() == pytest.approx(0.0 if "clip_high" in options else 1 / 3)
    assert result.ratio.item() == pytest.approx(3.5 / 3)
    assert result.kl is None


def test_clipping_below_cuts_a_token_that_fell_far_enough():
    logps = torch.tensor([math.log(0.05)], requires_grad=True)
    result = policy_gradient(logps, torch.tensor([math.log(0.1)]), torch.tensor([-1.0]), torch.tensor([0]))
    result.loss.backward()
    assert result.loss.item() == pytest.approx(0.8)
    assert result.clip_fraction.item() == 1.0 and logps.grad.item() == 0.0


def test_divergence_is_estimated_by_token_and_added_like_the_loss():
    reference = SAMPLED["logps"] + doubles(0.5, 0.0, -1.0)
    each = [math.exp(0.5) - 1.5, 0.0, math.exp(-1.0)]
    options = {"aggregation": "sequence", "ref_logps": reference}
    each = [value * ratio for value, ratio in zip(each, RATIOS, strict=True)]
    plain = policy_gradient(**SAMPLED, **options)
    held = policy_gradient(**SAMPLED, **options, kl_weight=0.5)
    assert plain.kl.item() == held.kl.item() == pytest.approx(sum(each) / 3)
    assert plain.loss.item() == pytest.approx((-3.6 / 2 + 1.5) / 3)
    assert (held.loss - plain.loss).item() == pytest.approx(0.5 * ((each[0] + each[1]) / 2 + each[2]) / 3)


def test_corrected_divergence_has_the_gradient_of_the_divergence():
    """Over all tokens of a vocabulary, each as often as the sampling policy has it, the estimate is no estimate."""
    scores = drawn(0, 5).requires_grad_()
    old, reference = drawn(1, 5).log_softmax(0), drawn(2, 5).log_softmax(0)
    logps = scores.log_softmax(0)
    exact = torch.autograd.grad((logps.exp() * (logps - reference)).sum(), scores, retain_graph=True)[0]
    parts = [
        old[place].exp()
        * policy_gradient(
            logps[place : place + 1],
            old[place : place + 1],
            doubles(0.0),
            torch.tensor([0]),
            ref_logps=reference[place : place + 1],
            kl_weight=1.0,
        ).loss
        for place in range(5)
    ]
    assert torch.allclose(torch.autograd.grad(sum(parts), scores)[0], exact)


def test_on_policy_gradient_is_the_advantage():
    logps = doubles(-1.0, -2.0, -0.5, grad=True)
    result = policy_gradient(logps, None, doubles(3.0, -1.0), torch.tensor([0, 1, 1]), aggregation="token")
    result.loss.backward()
    assert torch.allclose(logps.grad, doubles(-1.0, 1 / 3, 1 / 3))
    assert result.ratio.item() == 1.0 and result.clip_fraction.item() == 0.0


def test_group_advantages_by_hand():
    rewards = doubles(1.0, 3.0, 4.0, 4.0, 7.0, 2.0)
    groups = torch.tensor([9, 9, 5, 5, 5, 0])  # means 2, 5 and 2
    gaps = [-1.0, 1.0, -1.0, -1.0, 2.0, 0.0]
    assert group_advantages(rewards, groups, "none").tolist() == pytest.approx(gaps)
    by_group = [*[math.sqrt(2.0)] * 2, *[math.sqrt(3.0)] * 3, 0.0]
    expected = [gap / (deviation + 1e-4) for gap, deviation in zip(gaps, by_group, strict=True)]
    assert group_advantages(rewards, groups).tolist() == pytest.approx(expected)
    batch = math.sqrt(sum((value - 3.5) ** 2 for value in rewards.tolist()) / 5)
    assert group_advantages(rewards, groups, "batch").tolist() == pytest.approx([gap / (batch + 1e-4) for gap in gaps])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_a_missing_reward_has_no_advantage_and_moves_no_other(scale):
    nan = math.nan
    with_gaps = group_advantages(doubles(1.0, nan, 2.0, 0.0, nan), torch.tensor([0, 0, 0, 1, 2]), scale)
    without = group_advantages(doubles(1.0, 2.0, 0.0), torch.tensor([0, 0, 1]), scale)
    assert with_gaps[[1, 4]].tolist() == [0.0, 0.0]
    assert torch.allclose(with_gaps[[0, 2, 3]], without)
    assert group_advantages(doubles(nan, nan), torch.tensor([0, 0]), scale).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("options", PAIR_LOSSES, ids=named)
def test_pair_loss_gradients(options):
    lengths = {"lengths_chosen": torch.tensor([2, 3, 1, 5]), "lengths_rejected": torch.tensor([4, 1, 2, 2])}
    reference, weights = drawn(2, 2, 4), drawn(3, 4).abs()

    def loss(chosen, rejected):
        return dpo(chosen, rejected, *reference, beta=0.3, weights=weights, sft_weight=0.7, **lengths, **options).loss

    assert torch.autograd.gradcheck(loss, (drawn(0, 4).requires_grad_(), drawn(1, 4).requires_grad_()))


@pytest.mark.parametrize("options", AGGREGATIONS, ids=named)
def test_policy_gradient_gradients(options):
    owner, old = torch.tensor([0, 0, 1, 2, 2, 2, 3, 3]), drawn(1, 8)
    constant = {"constant_length": 5.0} if options["aggregation"] == "constant" else {}

    def result(logps):
        return policy_gradient(
            logps, old, drawn(2, 4), owner, ref_logps=drawn(3, 8), kl_weight=0.1, **options | constant
        )

    logps = (old + 0.5 * drawn(4, 8)).requires_grad_()
    assert 0 < result(logps).clip_fraction < 1  # some tokens are cut and some are not
    assert torch.autograd.gradcheck(lambda logps: result(logps).loss, (logps,))
    assert not any(value.requires_grad for value in (result(logps).kl, result(logps).ratio))


@st.composite
def splits(draw):
    """A number of items, the part of each (some parts may be empty), how many parts, and a seed for the values."""
    parts = draw(st.integers(1, 4))
    part = draw(st.lists(st.integers(0, parts - 1), min_size=1, max_size=9))
    return torch.tensor(part), parts, draw(st.integers(0, 10**6))


def assert_adds_up(whole, parts):
    fields = (
        ["loss", "margin", "accuracy"] if isinstance(whole, Preference) else ["loss", "clip_fraction", "ratio", "kl"]
    )
    for field in fields:
        total = sum(getattr(part, field).item() for part in parts)
        assert total == pytest.approx(getattr(whole, field).item(), rel=1e-12, abs=1e-12), field


def gradients_add_up(logps, whole, parts):
    expected = torch.autograd.grad(whole, logps)[0]
    assert torch.allclose(torch.autograd.grad(sum(parts), logps)[0], expected, rtol=1e-10, atol=1e-14)


@settings(max_examples=25, deadline=None)
@given(splits())
def test_parts_of_sft_add_up(split):
    part, count, seed = split
    logps, weights = drawn(seed, len(part)).requires_grad_(), drawn(seed + 1, len(part)).abs()
    total = weights.sum().item()
    parts = [sft(logps[part == number], weights[part == number], total) for number in range(count)]
    whole = sft(logps, weights)
    assert sum(parts).item() == pytest.approx(whole.item(), rel=1e-12, abs=1e-12)
    gradients_add_up(logps, whole, parts)


@pytest.mark.parametrize("options", PAIR_LOSSES, ids=named)
@settings(max_examples=25, deadline=None)
@given(split=splits())
def test_parts_of_dpo_add_up(split, options):
    part, count, seed = split
    logps, weights = drawn(seed, 4, len(part)).requires_grad_(), drawn(seed + 1, len(part)).abs()
    lengths = torch.randint(1, 9, (2, len(part)), generator=torch.Generator().manual_seed(seed))

    def of(chosen, **totals):
        sizes = {"lengths_chosen": lengths[0, chosen], "lengths_rejected": lengths[1, chosen]}
        fixed = {"beta": 0.3, "sft_weight": 0.4, "weights": weights[chosen]}
        return dpo(*logps[:, chosen], **fixed, **sizes, **options, **totals)

    totals = {"total": weights.sum().item(), "total_tokens": (weights * lengths[0]).sum().item()}
    whole = of(part >= 0)
    parts = [of(part == number, **totals) for number in range(count)]
    assert_adds_up(whole, parts)
    gradients_add_up(logps, whole.loss, [each.loss for each in parts])


@pytest.mark.parametrize("options", AGGREGATIONS, ids=named)
@settings(max_examples=25, deadline=None)
@given(split=splits())
def test_parts_of_policy_gradient_add_up(split, options):
    """Each item is a completion of 0 to 4 tokens; a part numbers its completions anew."""
    part, count, seed = split
    lengths = torch.randint(0, 5, (len(part),), generator=torch.Generator().manual_seed(seed))
    owner = torch.repeat_interleave(lengths)
    logps, old, reference = drawn(seed, 3, len(owner)).requires_grad_()
    advantages = drawn(seed + 1, len(part))
    constant = {"constant_length": 4.0} if options["aggregation"] == "constant" else {}

    def of(chosen, **totals):
        tokens = chosen[owner]
        new = chosen.cumsum(0)[owner[tokens]] - 1
        fixed = {"ref_logps": reference[tokens], "kl_weight": 0.2}
        return policy_gradient(
            logps[tokens], old[tokens], advantages[chosen], new, **fixed, **options, **constant, **totals
        )

    totals = {"total": len(part), "total_tokens": max(1, len(owner))}
    whole = of(part >= 0)
    parts = [of(part == number, **totals) for number in range(count)]
    assert_adds_up(whole, parts)
    gradients_add_up(logps, whole.loss, [each.loss for each in parts])


@pytest.mark.parametrize("given", ["nothing", "totals", "reference"])
@pytest.mark.parametrize("options", AGGREGATIONS, ids=named)
def test_a_count_stands_for_repeats(options, given):
    """Three completions, sampled once, three times and twice: the loss of six, with tokens that are cut off."""
    owner, counts = torch.tensor([0, 0, 1, 1, 1, 2]), doubles(1.0, 3.0, 2.0)
    old, advantages = drawn(1, 6), drawn(2, 3)
    constant = {"constant_length": 4.0} if options["aggregation"] == "constant" else {}
    told = {"nothing": {}, "totals": {"total": 9, "total_tokens": 31}, "reference": {}}[given]
    repeated = torch.tensor([0, 1, 2, 3, 4, 2, 3, 4, 2, 3, 4, 5, 5])
    owners = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 5])

    def result(logps, tokens, whose, gains, **more):
        held = {"ref_logps": drawn(3, 6)[tokens], "kl_weight": 0.3} if given == "reference" else {}
        return policy_gradient(logps[tokens], old[tokens], gains, whose, **options, **constant, **told, **held, **more)

    logps = (old + advantages[owner].sign() * 0.2 + 0.3 * drawn(4, 6)).requires_grad_()
    short = result(logps, torch.arange(6), owner, advantages, counts=counts)
    long = result(logps, repeated, owners, advantages[[0, 1, 1, 1, 2, 2]])
    assert short.clip_fraction > 0
    for name in ("loss", "clip_fraction", "ratio", *(["kl"] if given == "reference" else [])):
        assert getattr(short, name).item() == pytest.approx(getattr(long, name).item(), rel=1e-12)
    one, other = (torch.autograd.grad(found.loss, logps)[0] for found in (short, long))
    assert torch.allclose(one, other, rtol=1e-12)


ONE = torch.ones(1)
TOKEN = {"logps": ONE, "old_logps": None, "advantages": ONE, "owner": torch.tensor([0])}


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"sft_weight": 1.0}, "pass lengths_chosen"),
        ({"loss": "ipo", "lengths_chosen": ONE}, "pass lengths_rejected"),
        ({"length_normalized": True}, "pass lengths_chosen"),
        ({"weights": torch.ones(1, 1)}, r"\(1,\), \(1,\), \(1,\), \(1,\), \(1, 1\)"),
        ({"loss": "ipo", "lengths_chosen": torch.ones(1, 1)}, "differ in shape"),
    ],
)
def test_dpo_says_which_argument_is_wrong(options, found):
    with pytest.raises(StudyError, match=found) as caught:
        dpo(ONE, ONE, ONE, ONE, **{"beta": 0.1} | options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"kl_weight": 0.1}, "pass ref_logps"),
        ({"old_logps": torch.ones(2)}, "differ in shape"),
    ],
)
def test_policy_gradient_says_which_argument_is_wrong(options, found):
    with pytest.raises(StudyError, match=found):
        policy_gradient(**TOKEN | options)


def test_the_small_functions_say_what_is_wrong():
    with pytest.raises(StudyError, match="differ in shape"):
        group_advantages(ONE, torch.tensor([0, 1]))
    with pytest.raises(StudyError, match="differ in shape"):
        sft(torch.ones(2), torch.ones(2, 1))
