"""Checks that hold every kernel against the plain loops of dense_reference."""

import math

import numpy as np
import torch

from cai.inference.kernels.choose import make_pass
from cai.inference.kernels.native import library as native
from cai.inference.kernels.problem import SoftProblem
from cai.inference.tabular.backward import backward, occupancies
from cai.inference.tabular.recursion import EXACT, FIXED

RECURSIONS = {"exact": EXACT, "fixed": FIXED}
# Both sides round: values of size 1e2 after up to 40 steps differ by 1e-12 or so, and occupancies by as much.
TOLERANCE = 1e-10


def error(found, expected, scale=1.0):
    """The largest difference relative to `scale`; infinite where one side is infinite and the other not, or NaN."""
    found, expected = found.detach().double().numpy(), np.asarray(expected, dtype=float)
    assert found.shape == expected.shape
    finite = np.isfinite(expected)
    if not np.array_equal(np.isneginf(found), np.isneginf(expected)) or not np.isfinite(found[finite]).all():
        return math.inf
    return float(np.abs(found[finite] - expected[finite]).max(initial=0.0)) / scale


KERNELS = ("native", "torch") if native.available() else ("torch",)


def make(model, kind, kernel="auto", **parts):
    """The passes of a problem."""
    return make_pass(SoftProblem(model, kind, **parts), kernel)


def values_of(soft):
    """[T + 1, S, B], all values."""
    rows = soft.rows(soft.model.steps + 1)
    rows[-1] = 0.0
    soft.backward(rows, 0, soft.model.steps)
    return rows


def all_values(case, kind, kernel):
    soft = make(case.model, kind, kernel)
    return soft, values_of(soft)[..., 0]


def visits_along(soft, values, initial):
    """[S, A], the expected visits of every (s, a), as what flows to the log prior."""
    _, prior, *rewards = soft.problem.inputs()
    totals = [None, torch.zeros_like(prior), *(None for _ in rewards)]
    soft.forward(values[..., None], 0, initial[:, None], totals)
    return totals[1]


def check(case, kind, kernel, answer, tolerance=TOLERANCE, scale=1.0, spread=1.0):
    """Holds all that comes from one backward and one forward pass against the answer.

    `scale` is the size of the values; probabilities are powers of differences of values, so that they are known to
    `scale` times rounding too (`spread`).
    """
    messages = backward(case.model, RECURSIONS[kind], kernel=kernel)
    assert error(messages.values, answer.values, scale) < tolerance
    assert error(messages.q_values, answer.q_values, scale) < tolerance
    assert error(messages.policy, answer.policy, spread) < tolerance
    assert error(messages.start, answer.start, scale) < tolerance
    if answer.marginals is None:
        return
    initial = RECURSIONS[kind].believed_start(case.model, messages.values[0])
    assert error(initial, answer.initial, spread) < tolerance
    marginals, absorbed = occupancies(case.model, RECURSIONS[kind], initial, messages.values, kernel)
    visits = visits_along(make(case.model, kind, kernel), messages.values, initial)
    nonterminal = ~case.terminal
    assert error(marginals, answer.marginals, spread) < tolerance
    assert error(visits[torch.as_tensor(nonterminal)], answer.visits[nonterminal], spread * case.horizon) < tolerance
    lost = 1 - answer.marginals.sum(-1) if case.discount < 1 else np.zeros(case.horizon + 1)
    assert error(absorbed, lost, spread) < tolerance
