"""Certainty equivalents and divergences against decimal arithmetic of as many digits as it takes."""

import itertools
import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from cai.models.common.numerics import (
    categorical_divergence,
    certainty_equivalent,
    divergence_from_ratio,
    expectation,
    safe_log,
    safe_logsumexp,
    weighted,
)

INF = math.inf
ETAS = [0.0, INF, -INF]
ETAS += [sign * size for size in (1e-300, 1e-12, 1e-9, 1e-6, 1e-3, 0.1, 1.0, 30.0, 1e3) for sign in (1, -1)]
GRADIENT_ETAS = [0.0, 1e-300, 1e-12, -1e-12, 1e-6, -1e-3, 0.7, -2.0, 30.0, -30.0, 1e3, -1e3, INF, -INF]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def digits(eta):
    """A context in which log(1 + eta x) / eta keeps 50 digits."""
    size = abs(eta)
    lost = -math.log10(size) if 0 < size < 1 else 0.0
    return Context(prec=50 + 2 * math.ceil(lost), Emin=MIN_EMIN, Emax=MAX_EMAX)


def certain(weights, values, eta):
    """(1 / eta) log E[e^{eta x}] as a Decimal, of weights that are first normalised exactly."""
    with localcontext(digits(eta)):
        pairs = [(Decimal(w), x) for w, x in zip(weights, values, strict=True) if w > 0]
        whole = sum(w for w, _ in pairs)
        kept = [(w, Decimal(x)) for w, x in pairs if x > -INF]
        if not kept or (eta <= 0 and len(kept) < len(pairs)):
            return Decimal("-Infinity")
        if eta == 0:
            return sum(w * x for w, x in kept) / whole
        worth = [x for _, x in kept]
        if math.isinf(eta):
            return max(worth) if eta > 0 else min(worth)
        sign = Decimal(eta)
        shift = max(worth) if eta > 0 else min(worth)
        return shift + (sum(w * (sign * (x - shift)).exp() for w, x in kept) / whole).ln() / sign


def rows(seed, spread, offset, width=4, count=6, lost=None):
    """Weights [count, width], a tenth of them 0, and values; `lost` is the weight of a value of -inf in each row."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(width), size=count)
    weights = np.where(rng.random(weights.shape) < 0.1, 0.0, weights)
    weights[:, 0] += 1e-3
    values = offset + spread * rng.normal(size=weights.shape)
    weights /= weights.sum(-1, keepdims=True)
    if lost is not None:
        weights = np.concatenate([(1 - lost) * weights, np.full((count, 1), lost)], -1)
        values = np.concatenate([values, np.full((count, 1), -INF)], -1)
    return tensor(weights), tensor(values)


# ---- certainty equivalents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", ETAS)
def test_certainty_equivalents_hold_every_digit(eta):
    """Rounding of the values themselves is all that is allowed: a few units in the last place of the largest."""
    for seed, (spread, offset) in enumerate((s, o) for s in (1e-2, 1.0, 30.0, 1e4) for o in (0.0, 1e4, -1e4)):
        weights, values = rows(seed, spread, offset)
        got = certainty_equivalent(weights, values, eta)
        for w, x, number in zip(weights.tolist(), values.tolist(), got.tolist(), strict=True):
            error = abs(number - float(certain(w, x, eta)))
            assert error <= 8 * 2.0**-52 * max(map(abs, x)), (spread, offset, number)


@pytest.mark.parametrize("eta", [1e-300, 1e-12, 1e-9, 1e-3, 1.0, 30.0, 1e3, INF])
@pytest.mark.parametrize("lost", [1e-300, 1e-17, 1e-9, 0.3, 0.5, 0.999, 1 - 1e-12])
def test_a_value_of_minus_infinity_loses_its_weight_for_positive_eta(eta, lost):
    weights, values = rows(7, 3.0, 0.0, lost=lost)
    got = certainty_equivalent(weights, values, eta)
    for w, x, number in zip(weights.tolist(), values.tolist(), got.tolist(), strict=True):
        want = float(certain(w, x, eta))
        # log1p of a loss close to 1 magnifies the rounding of what is kept.
        slack = 1e-14 * max(abs(want), max(map(abs, x[:-1]))) + (1e-15 / (1 - lost) / eta if lost > 0.9 else 0.0)
        assert abs(number - want) <= slack, (number, want)


@pytest.mark.parametrize("eta", [1e-300, 1e-12, 1.0])
@pytest.mark.parametrize("lost", [1e-300, 1e-17, 1e-3])
def test_a_loss_beside_nothing_is_counted_exactly(eta, lost):
    got = certainty_equivalent(tensor([0.5, 0.5, lost]), tensor([0.0, 0.0, -INF]), eta)
    assert float(got) == pytest.approx(math.log1p(-lost) / eta, rel=1e-12, abs=0)


@pytest.mark.parametrize("eta", [0.0, -1e-300, -1e-12, -1.0, -1e3, -INF])
@pytest.mark.parametrize("lost", [1e-300, 1e-17, 0.3])
def test_a_value_of_minus_infinity_is_fatal_without_optimism(eta, lost):
    weights, values = rows(7, 3.0, 0.0, lost=lost)
    assert (certainty_equivalent(weights, values, eta) == -INF).all()


@pytest.mark.parametrize("eta", ETAS)
def test_what_has_no_weight_does_not_count(eta):
    weights, values = rows(9, 3.0, 1.0)
    want = certainty_equivalent(weights, values, eta)
    for waste in (-INF, 1e6, -1e6, 0.0):
        more = torch.cat([values, torch.full((len(values), 1), waste, dtype=torch.float64)], -1)
        got = certainty_equivalent(torch.cat([weights, torch.zeros(len(weights), 1).double()], -1), more, eta)
        assert torch.allclose(got, want, rtol=1e-14, atol=1e-14), waste


@pytest.mark.parametrize("eta", ETAS)
def test_a_row_of_minus_infinities_and_a_certain_row(eta):
    assert float(certainty_equivalent(tensor([0.5, 0.5]), tensor([-INF, -INF]), eta)) == -INF
    assert float(certainty_equivalent(tensor([0.0, 1.0]), tensor([-INF, 0.3]), eta)) == 0.3
    assert float(certainty_equivalent(tensor([0.25, 0.75]), tensor([-2.5, -2.5]), eta)) == -2.5


@pytest.mark.parametrize("eta", ETAS)
def test_weights_and_values_broadcast(eta):
    weights, values = tensor([0.25, 0.75]), tensor([[[1.0, 2.0], [0.0, -3.0]], [[5.0, 5.0], [-INF, 1.0]]])
    got = certainty_equivalent(weights, values, eta)
    assert got.shape == (2, 2)
    for i in range(2):
        for j in range(2):
            assert torch.equal(got[i, j], certainty_equivalent(weights, values[i, j], eta))


def test_certainty_equivalents_never_fall_as_eta_grows():
    ladder = sorted(set(ETAS))
    for seed in range(10):
        weights, values = rows(seed, 10.0 ** (seed % 4), 0.0)
        steps = [certainty_equivalent(weights, values, eta) for eta in ladder]
        size = values.abs().amax(-1)
        for low, high in itertools.pairwise(steps):
            assert (high >= low - 1e-14 * size).all()


@pytest.mark.parametrize("eta", [1e-3, 1.0, 2.0, -1.0, -2.0])
@pytest.mark.parametrize("large", [1e4, 1e6, 1e9, 1e15])
def test_a_large_penalty_costs_no_digits(eta, large):
    """-1e9 in the place of -inf, as the status 'impossible' advises: the answer is of size 1 and has all its digits."""
    # Once: the branch for large spreads adds and subtracts the mean, so it loses 1e-16 of the spread.
    sign = 1 if eta > 0 else -1
    weights, values = [0.5, 0.25, 0.25], [1.5, 0.3, -sign * large if sign > 0 else large]
    got = float(certainty_equivalent(tensor(weights), tensor(values), eta))
    assert got == pytest.approx(float(certain(weights, values, eta)), rel=1e-12)


@pytest.mark.parametrize("eta", [1e-12, -1e-12, 1e-9, -1e-9, 1e-6, -1e-6, 1e-3, 0.5])
@pytest.mark.parametrize(
    ("weights", "values"),
    [([0.5, 0.5], [1.0, -1.0]), ([0.25, 0.75], [3.0, -1.0]), ([0.125, 0.375, 0.5], [-3.0, -1.0, 1.5])],
    ids=["even", "skewed", "three"],
)
def test_beside_a_mean_of_zero_the_variance_shows(eta, weights, values):
    """Weights, values and mean have no rounding here, so what is left, eta / 2 times the variance, has digits."""
    # Once: the expm1 of the deviations are rounded before they cancel to first order; 4 digits are left
    # at 1e-12. The sum of expm1(y) - y (by its series) beside eta * sum(w * deviation) would keep them all.
    got = float(certainty_equivalent(tensor(weights), tensor(values), eta))
    assert got == pytest.approx(float(certain(weights, values, eta)), rel=1e-9, abs=0)


@pytest.mark.parametrize("eta", [1e100, 1e300, 1.7e308])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e4])
def test_an_eta_without_measure_is_an_extreme(eta, sign, spread):
    # Once: where eta times the spread overflows, the result is the mean, or +-inf.
    values = tensor([0.3, -0.4, 1.0]) * spread
    want = values.max() if sign > 0 else values.min()
    got = certainty_equivalent(tensor([0.2, 0.3, 0.5]), values, sign * eta)
    assert float(got) == pytest.approx(float(want), rel=1e-12)


@pytest.mark.parametrize("eta", GRADIENT_ETAS)
def test_gradients_of_certainty_equivalents(eta):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda w, x: certainty_equivalent(w.softmax(-1), x, eta), (logits, values))


@pytest.mark.parametrize("eta", [1e-3, 0.7, 30.0, INF])
def test_gradients_beside_what_is_lost(eta):
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(3, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)

    def equivalent(logits, values):
        nothing = torch.full((3, 1), -INF, dtype=torch.float64)
        return certainty_equivalent(logits.softmax(-1), torch.cat([values, nothing], -1), eta)

    assert gradcheck(equivalent, (logits, values))


@pytest.mark.parametrize("eta", GRADIENT_ETAS)
@pytest.mark.parametrize("spread", [1.0, 1e4])
def test_the_gradient_in_the_values_is_the_tilted_distribution(eta, spread):
    values = (tensor([0.1, -0.7, 0.9, 5.0, -INF]) * spread).requires_grad_()
    weights = tensor([0.2, 0.3, 0.5, 0.0, 0.0])
    (slope,) = torch.autograd.grad(certainty_equivalent(weights, values, eta), values)
    assert not slope.isnan().any()
    assert slope[3:].tolist() == [0.0, 0.0]
    if math.isinf(eta):
        want = [0.0, 0.0, 1.0] if eta > 0 else [0.0, 1.0, 0.0]
    else:
        scores = weights[:3].log() + eta * values.detach()[:3]
        want = scores.softmax(-1).tolist()
    # A score of eta times the spread is known to its own rounding.
    assert slope[:3].tolist() == pytest.approx(want, abs=1e-12 + 1e-15 * (0 if math.isinf(eta) else abs(eta) * spread))


@pytest.mark.parametrize("eta", [0.0, 0.5, -0.5, INF, -INF])
def test_gradients_of_rows_without_hope_are_zero(eta):
    values = tensor([-INF, -INF, 1.0]).requires_grad_()
    (slope,) = torch.autograd.grad(certainty_equivalent(tensor([0.5, 0.5, 0.0]), values, eta), values)
    assert slope.tolist() == [0.0, 0.0, 0.0]


# ---- divergences -------------------------------------------------------------------------------------------------


def divergence(weights, ratios):
    """sum_k p_k (x e^x - e^x + 1) as a Decimal."""
    smallest = min((abs(x) for x in ratios if x != 0), default=1.0)
    with localcontext(digits(smallest)):
        total = Decimal(0)
        for w, x in zip(weights, ratios, strict=True):
            grown = Decimal(0) if x == -INF else Decimal(x).exp()
            total += Decimal(w) * ((Decimal(x) * grown if x > -INF else 0) - grown + 1)
        return total


@pytest.mark.parametrize(
    "size", [1e-300, 1e-150, 1e-15, 1e-12, 1e-6, 1e-3, 0.0099999, 0.01, 0.0100001, 0.3, 5.0, 300.0]
)
def test_divergence_from_ratios_of_every_size(size):
    rng = np.random.default_rng(0)
    for _ in range(10):
        weights = rng.dirichlet(np.ones(3))
        ratios = size * rng.choice([-1.0, 1.0, 0.5, 0.0], size=3)
        want = float(divergence(weights, ratios))
        got = float(divergence_from_ratio(tensor(weights), tensor(ratios)))
        assert got == pytest.approx(want, rel=1e-11, abs=1e-320)
        assert got >= 0


def test_divergence_from_ratios_at_the_edges():
    gone = tensor([[-INF, math.log(2)], [0.0, 0.0], [-INF, 0.0]])
    weights = tensor([[0.5, 0.5], [0.0, 1.0], [0.0, 1.0]])
    assert divergence_from_ratio(weights, gone).tolist() == pytest.approx([math.log(2), 0.0, 0.0], abs=1e-15)


@pytest.mark.parametrize("weight", [5e-324, 1e-300, 1e-200])
def test_a_ratio_may_overflow_where_the_probability_does_not(weight):
    """q = 1/2 out of next to nothing: KL = q (x - 1) + p."""
    ratio = math.log(0.5) - math.log(weight)
    got = divergence_from_ratio(tensor([weight, 1.0]), tensor([ratio, math.log(0.5)]))
    assert float(got) == pytest.approx(0.5 * ratio + 0.5 * math.log(0.5), rel=1e-12)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9, 1e-12])
@pytest.mark.parametrize("prior", [[0.5, 0.5], [0.125, 0.25, 0.625], [0.0625, 0.9375]])
def test_categorical_divergence_of_what_hardly_differs(size, prior):
    """Both distributions hold these digits exactly, so their divergence of size^2 / 2 is known."""
    # Once: the ratio is taken as a difference of logarithms, which are rounded to 1e-16;
    # log1p((q - p) / p) would keep it where q and p are close.
    step = 2.0 ** round(math.log2(size))
    posterior = [prior[0] + step * prior[0], *prior[1:-1], prior[-1] - step * prior[0]]
    with localcontext(Context(prec=60)):
        want = sum(
            Decimal(q) * (Decimal(q) / Decimal(p)).ln() - Decimal(q) + Decimal(p)
            for q, p in zip(posterior, prior, strict=True)
        )
    got = float(categorical_divergence(tensor(posterior), tensor(prior)))
    assert got == pytest.approx(float(want), rel=1e-9, abs=0)


def test_categorical_divergence_of_anything_else():
    rng = np.random.default_rng(1)
    posterior, prior = rng.dirichlet(np.ones(4), size=50), rng.dirichlet(np.ones(4), size=50)
    posterior[::3, 0] = 0.0
    posterior /= posterior.sum(-1, keepdims=True)
    terms = np.where(posterior > 0, posterior * np.log(np.where(posterior > 0, posterior, 1.0) / prior), 0.0)
    got = categorical_divergence(tensor(posterior), tensor(prior))
    assert np.allclose(got.numpy(), terms.sum(-1), rtol=1e-12, atol=1e-14)


def test_categorical_divergence_holds_zeros_and_infinities():
    posterior = tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    prior = tensor([[1.0, 0.0], [0.25, 0.75], [1.0, 0.0], [0.0, 1.0]])
    assert categorical_divergence(posterior, prior).tolist() == [0.0, -math.log(0.75), INF, INF]


def test_gradients_of_divergences():
    generator = torch.Generator().manual_seed(5)
    left = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    right = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda q, p: categorical_divergence(q.softmax(-1), p.softmax(-1)), (left, right))
    ratio = torch.tensor([[0.003, -0.004, 2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda p, x: divergence_from_ratio(p.softmax(-1), x), (right[:1].detach().requires_grad_(), ratio))
    zeros = tensor([0.0, 1.0]).requires_grad_()
    (slope,) = torch.autograd.grad(categorical_divergence(zeros, tensor([0.5, 0.5])), zeros)
    assert not slope.isnan().any()


# ---- logarithms and sums -----------------------------------------------------------------------------------------


def test_zeros_stay_zero_and_infinities_infinite():
    assert safe_log(tensor([0.0, 1.0, 5e-324])).tolist() == [-INF, 0.0, math.log(5e-324)]
    assert safe_logsumexp(tensor([[-INF, -INF], [-INF, 2.0], [1e4, 1e4]])).tolist() == pytest.approx(
        [-INF, 2.0, 1e4 + math.log(2)], rel=1e-15
    )
    assert weighted(tensor([0.0, 0.5, 0.0]), tensor([-INF, -INF, INF])).tolist() == [0.0, -INF, 0.0]
    assert expectation(tensor([0.5, 0.5, 0.0]), tensor([[1.0, 2.0, -INF], [1.0, -INF, 5.0]])).tolist() == [1.5, -INF]


@pytest.mark.parametrize("function", [safe_log, safe_logsumexp], ids=lambda f: f.__name__)
def test_gradients_at_nothing_are_zero(function):
    values = (torch.zeros(2, 3) if function is safe_log else torch.full((2, 3), -INF)).double().requires_grad_()
    (slope,) = torch.autograd.grad(function(values).nan_to_num(neginf=0.0).sum(), values)
    assert (slope == 0).all()


def test_gradients_of_expectations_beside_infinities():
    weights = tensor([0.5, 0.5, 0.0]).requires_grad_()
    values = tensor([1.0, 2.0, -INF]).requires_grad_()
    slopes = torch.autograd.grad(expectation(weights, values), (weights, values))
    assert slopes[0].tolist() == [1.0, 2.0, 0.0]
    assert slopes[1].tolist() == [0.5, 0.5, 0.0]
