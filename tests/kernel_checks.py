"""Checks that hold every kernel against the plain loops of dense_reference."""

import math

import numpy as np
import torch

from cai.inference.kernels.native import library as native
from cai.inference.kernels.passes import make_pass
from cai.inference.tabular.messages import EXACT, FIXED, backward, occupancies

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


def kernels_for(case, kind):
    names = {"csr", "successors", "auto", *(["native"] if native.available() else [])}
    names |= {"dense"} if case.model.mdp.is_dense else set()
    return sorted(names | ({"collapsed"} if kind == "exact" and not case.model.reward.reads_time else set()))


def all_values(case, kind, kernel, values_only=True):
    soft = make_pass(case.model, kind, kernel=kernel, values_only=values_only)
    return soft, soft.values(case.model.mdp.probabilities.new_empty(case.horizon + 1, case.model.mdp.num_states))


def check(case, kind, kernel, answer, tolerance=TOLERANCE, scale=1.0, spread=1.0):
    """Holds all that comes from one backward and one forward pass against the answer.

    `scale` is the size of the values; probabilities are powers of differences of values, so that they are known to
    `scale` times rounding too (`spread`).
    """
    messages = backward(case.model, RECURSIONS[kind], kernel="auto" if kernel == "collapsed" else kernel)
    assert error(messages.values, answer.values, scale) < tolerance
    assert error(messages.q_values, answer.q_values, scale) < tolerance
    assert error(messages.policy, answer.policy, spread) < tolerance
    assert error(messages.start, answer.start, scale) < tolerance
    if answer.marginals is None:
        return
    initial = RECURSIONS[kind].believed_start(case.model, messages.values[0])
    assert error(initial, answer.initial, spread) < tolerance
    (marginals, absorbed), visits = occupancies(case.model, RECURSIONS[kind], initial, messages.values, kernel)
    live = ~case.terminal
    assert error(marginals, answer.marginals, spread) < tolerance
    assert error(visits[torch.as_tensor(live)], answer.visits[live], spread * case.horizon) < tolerance
    lost = 1 - answer.marginals.sum(-1) if case.discount < 1 else np.zeros(case.horizon + 1)
    assert error(absorbed, lost, spread) < tolerance
