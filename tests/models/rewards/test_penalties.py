"""Distances, densities and barriers against plain loops; limits on entering states against a search of one's own."""

import math

import numpy as np
import pytest
import torch
from reward_loops import NEXT, OF_STATE, S, agree, both, dense, listed

import cai
from cai.inference import InferenceError, infer
from cai.models import (
    MDP,
    DistancePenalty,
    Goal,
    LogBarrier,
    StepCost,
    TableReward,
    TrajectoryModel,
    VisitationPenalty,
    bridge,
)
from cai.models.rewards.penalties import steps_to
from cai.studies.constraints import limit_entries

# ---- distance ----------------------------------------------------------------------------------------------------


def breadth_first(target):
    """Fewest steps from each state, by asking what each set of states can lead to."""
    far = {target: 0}
    edge = [target]
    while edge:
        found = [s for s in range(S) if s not in far and any(n in edge for row in NEXT[s] for n in row)]
        far |= {s: max(far.values()) + 1 for s in found}
        edge = found
    return far


@both
@pytest.mark.parametrize("target", ["a", "c", "end"])
def test_steps(build, target):
    far = breadth_first(["a", "b", "c", "end"].index(target))
    agree(build(), DistancePenalty(target, 0.5), lambda s, a, k, n, t: -0.5 * far[s])


def test_only_possible_and_available_moves_count():
    process = MDP(
        [[[0, 1, 0], [0, 0, 1.0]], [[0, 0, 1.0], [1.0, 0, 0]], [[0, 0, 1], [0, 0, 1]]],
        [1.0, 0, 0],
        available=[[True, False], [True, True], [True, True]],
        terminal=[2],
    )
    assert steps_to(process, torch.tensor([False, False, True])).tolist() == [2.0, 1.0, 0.0]
    with pytest.raises(ValueError, match=r"state 1 has no steps distance to a target.*metric=\[S\]"):
        TrajectoryModel(MDP([[[1.0, 0.0]], [[0.0, 1.0]]], [0.5, 0.5]), DistancePenalty([0]), 2)


@pytest.mark.parametrize(("metric", "power"), [("manhattan", 1), ("euclidean", 2)])
def test_cells(metric, power):
    model = bridge(horizon=3)
    mdp, region = model.mdp, model.mdp.regions["goal"]
    goal = mdp.layout.cells[int(torch.nonzero(region)[0])]
    table = model.replace(reward=DistancePenalty("goal", 2.0, metric)).reward_table(0)[..., 0]
    for state, cell in enumerate(mdp.layout.cells):
        away = sum(abs(x - y) ** power for x, y in zip(cell, goal, strict=True)) ** (1 / power)
        assert float(table[state, 0]) == pytest.approx(0.0 if mdp.terminal[state] else -2.0 * away, abs=1e-12)


@both
def test_a_table_of_distances(build):
    agree(build(), DistancePenalty("end", 2.0, OF_STATE.abs()), lambda s, a, k, n, t: -2 * abs(float(OF_STATE[s])))


def test_its_price_learns():
    price = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    posterior = infer(TrajectoryModel(listed(), DistancePenalty("end", price), 3), "exact")
    posterior.log_evidence.backward()
    far = torch.tensor([breadth_first(3)[s] for s in range(S)], dtype=torch.float64)
    assert float(price.grad) == pytest.approx(-float((posterior.state_marginals.detach()[:3] @ far).sum()), abs=1e-9)


# ---- densities ---------------------------------------------------------------------------------------------------

CROWD = torch.tensor([0.5, 0.25, 1.5, 9.0], dtype=torch.float64)


@both
def test_visits(build):
    agree(build(), VisitationPenalty(CROWD, 2.0), lambda s, a, k, n, t: -2 * float(CROWD[s]))
    over_time = torch.stack([CROWD * (t + 1) for t in range(4)])
    agree(build(), VisitationPenalty(over_time, 2.0), lambda s, a, k, n, t: -2 * float(CROWD[s]) * (t + 1))
    assert VisitationPenalty(CROWD).reads_time is False


def test_fictitious_play_settles_where_congestion_is_least():
    """Two equal roads: going twice over the same one costs; against the minimum over how often one takes the first."""
    process = MDP.from_successors(
        [[[1], [2]], *[[[3], [3]]] * 2, [[3], [3]]], np.ones((4, 2, 1)), [1.0, 0, 0, 0], terminal=[3]
    )
    price, toll = 3.0, 1.0  # the first road has a toll as well
    base = TableReward([0.0, -toll, 0.0, 0.0])
    visits = torch.zeros(3, 4, dtype=torch.float64)
    for round_ in range(1, 400):
        posterior = infer(TrajectoryModel(process, base + VisitationPenalty(visits, price), 2), "variational")
        visits = visits + (posterior.state_marginals - visits) / round_
    share = np.linspace(1e-6, 1 - 1e-6, 200001)
    divergence = share * np.log(2 * share) + (1 - share) * np.log(2 * (1 - share))
    best = share[np.argmax(-toll * share - price / 2 * (share**2 + (1 - share) ** 2) - divergence)]
    assert float(visits[1, 1]) == pytest.approx(best, abs=1e-3)


# ---- barriers ----------------------------------------------------------------------------------------------------

SLACK = torch.tensor([0.5, 2.0, 0.0, 1.5], dtype=torch.float64)


@both
def test_barrier(build):
    def by_hand(s, a, k, n, t):
        return -math.inf if SLACK[n] <= 0 else 0.75 * math.log(SLACK[n])

    agree(build(), LogBarrier(SLACK, 0.75), by_hand)


def test_a_barrier_is_never_crossed_and_fades_with_its_weight():
    process = MDP.from_successors(NEXT, listed().probabilities, [0.5, 0.5, 0.0, 0.0], terminal=[3])
    model = TrajectoryModel(process, StepCost(0.1) + LogBarrier(SLACK, 1e-9), 4)
    hard = model.replace(reward=StepCost(0.1) + Goal([2], -math.inf))
    soft, wall = infer(model, "exact"), infer(hard, "exact")
    assert float(soft.state_marginals[1:, 2].max()) == 0.0
    assert float(soft.log_evidence) == pytest.approx(float(wall.log_evidence), abs=1e-8)


def test_a_barrier_gives_no_nan_gradient():
    slack = SLACK.clone().requires_grad_()
    infer(TrajectoryModel(dense(), LogBarrier(slack), 3), "exact").log_evidence.backward()
    assert bool(torch.isfinite(slack.grad).all())
    assert float(slack.grad[2]) == 0.0


# ---- limits ------------------------------------------------------------------------------------------------------


def chance_of_entering(model, posterior, states):
    """The probability under q of entering the states at any time, by a plain loop that lets them swallow the chain."""
    inside = model.mdp.states(states)
    mass, entered = posterior.initial.clone(), 0.0
    mass[inside] = 0
    for t in range(model.steps):
        joint = mass[:, None, None] * posterior.action_probs[t][..., None] * posterior.dynamics(t)
        mass = joint.sum((0, 1))
        entered += float(mass[inside].sum())
        mass = torch.where(inside, 0.0, mass)
    return entered


@pytest.mark.parametrize("backend", ["variational", "exact"])
@pytest.mark.parametrize("limit", [0.3, 0.05, 0.001])
def test_a_limit_on_terminal_states_is_met_exactly(backend, limit):
    model = bridge(horizon=12, temperature=4.0)
    free = chance_of_entering(model, infer(model, backend), "chasm")
    found = limit_entries(model, "chasm", limit, backend=backend)
    if free <= limit:
        assert found.multiplier == 0
        return
    assert found.multiplier > 0
    assert found.entries <= limit
    assert found.entries == pytest.approx(limit, rel=1e-5)
    assert chance_of_entering(found.model, found.posterior, "chasm") == pytest.approx(found.entries, abs=1e-9)
    if backend == "variational":
        real = cai.evaluate(cai.extract_policy(found.posterior), model, num_rollouts=10)
        assert real.ends_in["chasm"] == pytest.approx(found.entries, abs=1e-9)


def crossing():
    """One choice: a sure way that costs, or a free one that falls in with probability 0.4."""
    process = MDP([[[0, 0, 1.0], [0, 0.4, 0.6]], [[0, 1, 0]] * 2, [[0, 0, 1]] * 2], [1.0, 0, 0], terminal=[1, 2])
    return TrajectoryModel(process, TableReward([[-2.0, 0.0], [0, 0], [0, 0]]), 1, temperature=0.5)


@pytest.mark.parametrize("limit", [0.3, 0.1, 0.01])
def test_the_multiplier_of_one_choice_by_hand(limit):
    """pi(free) = limit / 0.4, and log pi(free) / pi(sure) = (2 - 0.4 lambda) / alpha."""
    found = limit_entries(crossing(), [1], limit, tolerance=1e-10)
    share = limit / 0.4
    by_hand = (2.0 - 0.5 * math.log(share / (1 - share))) / 0.4
    assert found.multiplier == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("limit", [0.05, 0.2])
def test_no_other_policy_within_the_limit_has_a_larger_bound(limit):
    found = limit_entries(crossing(), [1], limit, tolerance=1e-10)
    base = float(found.posterior.elbo) + found.multiplier * found.entries / 0.5
    for share in np.linspace(1e-6, limit / 0.4, 1001):
        divergence = share * math.log(2 * share) + (1 - share) * math.log(2 * (1 - share))
        assert -2.0 * (1 - share) / 0.5 - divergence <= base + 1e-8


def test_entries_bound_the_probability_where_one_may_come_back():
    process = MDP(np.full((2, 1, 2), 0.5), [1.0, 0.0])
    choose = MDP.from_successors([[[0, 1], [0, 0]], [[0, 1], [0, 0]]], [[[0.5, 0.5], [1.0, 0.0]]] * 2, [1.0, 0.0])
    model = TrajectoryModel(choose, TableReward([[1.0, 0.0], [1.0, 0.0]]), 10)
    found = limit_entries(model, [1], 0.25)
    assert found.entries == pytest.approx(0.25, rel=1e-5)
    assert chance_of_entering(found.model, found.posterior, [1]) < 0.25
    with pytest.raises(ValueError, match=r"at a price of .* for each entry .* and 0\.25 is allowed.*allow more"):
        limit_entries(TrajectoryModel(process, 0.0, 10), [1], 0.25)


def test_a_limit_at_a_temperature_that_learns():
    alpha = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    found = limit_entries(crossing().replace(temperature=alpha), [1], 0.1)
    assert found.multiplier == pytest.approx(limit_entries(crossing(), [1], 0.1).multiplier, abs=1e-12)


def test_a_limit_with_a_discount():
    found = limit_entries(crossing().replace(discount=0.9, horizon=math.inf), [1], 0.1)
    assert found.entries == pytest.approx(0.1, rel=1e-5)


REFUSED = {
    "zero": (
        lambda: limit_entries(crossing(), [1], 0.0),
        ValueError,
        r"probability is 0\.0.*Goal\(states, -math\.inf\)",
    ),
    "above one": (lambda: limit_entries(crossing(), [1], 1.5), ValueError, r"in \(0, 1\]"),
    "target": (lambda: limit_entries(crossing(), [1], 0.5, backend="boltzmann"), ValueError, r"use 'variational'"),
    "state": (lambda: limit_entries(crossing(), [5], 0.5), ValueError, r"state 5 does not exist"),
    "tolerance": (lambda: limit_entries(crossing(), [1], 0.5, tolerance=0.0), ValueError, r"tolerance is 0\.0"),
    "program": (lambda: limit_entries(lambda: None, [1], 0.5), TypeError, r"TrajectoryModel"),
    "no answer": (
        lambda: limit_entries(crossing().replace(reward=TableReward([-math.inf, 0, 0])), [1], 0.5),
        InferenceError,
        r"impossible",
    ),
}


@pytest.mark.parametrize(("build", "error", "pattern"), REFUSED.values(), ids=list(REFUSED))
def test_refusals(build, error, pattern):
    with pytest.raises(error, match=pattern):
        build()
