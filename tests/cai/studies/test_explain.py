"""What a reward says: probabilities, shares and gradients against the sum over all paths, and against differences."""

import math

import numpy as np
import pytest
import torch
from campaigns import each_seed
from elsewhere import elsewhere
from matplotlib.figure import Figure
from methods import ALL
from oracle import exact, fixed, moves, paths, random_problem

import cai
from cai.inference import InferenceError
from cai.models import (
    MDP,
    Goal,
    OutcomeReward,
    RewardFactor,
    StepCost,
    TableReward,
    TrajectoryModel,
    bridge,
    lottery,
    shaped,
)
from cai.studies.explain import explain_reward

SEEDS = range(12)


class Fixed(RewardFactor):
    """A table by outcome."""

    def __init__(self, table):
        self.table = table

    def evaluate(self, mdp, step):
        return self.table[step.t][step.state, step.action, step.outcome]


# ---- the probability that each step is optimal -------------------------------------------------------------------


def by_paths(problem, weigh, r_max):
    """[T], sum over all paths of weight(path) exp((r_t - r_max) / alpha); what has ended earns 0."""
    total = np.zeros(problem.horizon)
    for start, chance in enumerate(problem.initial):
        for steps, probability, reward in paths(problem, start, 0) if chance else ():
            weight = weigh(chance * probability, reward)
            for t in range(problem.horizon):
                gain = 0.0
                if t < len(steps) and not problem.terminal[steps[t][0]]:
                    state, action, _, k = steps[t]
                    gain = problem.outcomes[state][action][k][2][t]
                total[t] += weight * math.exp((gain - r_max) / problem.temperature)
    return total


@each_seed(SEEDS, quick=5)
def test_optimality_against_all_paths(seed):
    problem = random_problem(seed)
    found = exact(problem)
    if found.log_evidence == -math.inf:
        return
    explained = explain_reward(problem.model)
    r_max, alpha = problem.model.r_max, problem.temperature
    prior = by_paths(problem, lambda chance, reward: chance, r_max)
    np.testing.assert_allclose(explained.prior_optimality, prior, atol=1e-10)
    answer = by_paths(problem, lambda chance, reward: chance * math.exp(reward / alpha - found.log_evidence), r_max)
    np.testing.assert_allclose(explained.posterior_optimality, answer, atol=1e-10)
    assert bool((explained.prior_optimality <= 1 + 1e-12).all())


@each_seed(SEEDS, quick=5)
def test_probabilities_in_sequence_multiply_to_the_evidence(seed):
    """The chain rule: the Bernoulli form's log p(O), which is the factor form's less T r_max / alpha."""
    problem = random_problem(seed)
    model = problem.model
    if exact(problem).log_evidence == -math.inf:
        return
    logs = explain_reward(model).sequential_optimality.log()
    bernoulli = cai.infer(model.replace(optimality="bernoulli"), "exact").log_evidence
    assert float(logs.sum()) == pytest.approx(float(bernoulli), abs=1e-9)
    first = explain_reward(model)
    assert float(first.sequential_optimality[0]) == pytest.approx(float(first.prior_optimality[0]), abs=1e-12)


# ---- shares ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["exact", "variational"])
@pytest.mark.parametrize("optimality", ["factor", "bernoulli"])
@each_seed(SEEDS, quick=5)
def test_shares_add_up(seed, optimality, backend):
    """To log p(O) for the exact posterior and to the bound for fixed dynamics, whatever the discount."""
    problem = random_problem(seed)
    model = problem.model.replace(optimality=optimality)
    extra = torch.as_tensor(np.random.default_rng(seed).normal(size=(problem.num_states, problem.num_actions)))
    extra[torch.tensor(problem.terminal)] = 0
    model = model.replace(reward=model.reward + TableReward(extra) + StepCost(0.25))
    answer = cai.infer(model, backend, throw=False)
    if not answer.status.ok:
        with pytest.raises(InferenceError):
            explain_reward(model, backend)
        return
    explained = explain_reward(model, backend)
    bound = float(answer.log_evidence if backend == "exact" else answer.elbo)
    assert float(explained.shares.sum()) == pytest.approx(bound, abs=1e-9)
    assert explained.total == pytest.approx(bound, abs=1e-9)
    assert len(explained.terms) == 3
    assert float(explained.rewards.sum()) == pytest.approx(float(answer.believed_return), abs=1e-9)
    # Each cost by itself.
    costs = explained.costs.sum(0)
    assert float(-costs[0]) == pytest.approx(float(answer.policy_divergence), abs=1e-9)
    assert float(-costs[1] - costs[2]) == pytest.approx(float(answer.luck), abs=1e-9)


@each_seed(SEEDS, quick=5)
def test_each_term_against_all_paths(seed):
    problem = random_problem(seed, reward="sak")
    found = exact(problem)
    if found.log_evidence == -math.inf:
        return
    model = problem.model
    first = torch.where(torch.isinf(model.reward_table(0)), 0.0, torch.ones(()).double())[None]
    first = first.expand(problem.horizon, -1, -1, -1) * 0.5
    first = torch.where(model.nonterminal[:, None, None], first, 0.0)
    split = model.replace(reward=Fixed(first) + (model.reward - Fixed(first)))
    explained = explain_reward(split)
    want = np.zeros(problem.horizon)
    for start, chance in enumerate(problem.initial):
        for steps, probability, reward in paths(problem, start, 0) if chance else ():
            weight = chance * probability * math.exp(reward / problem.temperature - found.log_evidence)
            for t, (state, action, _, k) in enumerate(steps):
                want[t] += weight * float(first[t, state, action, k])
    np.testing.assert_allclose(explained.rewards[:, 0], want, atol=1e-9)


# ---- gradients ---------------------------------------------------------------------------------------------------


@each_seed(SEEDS, quick=5)
def test_the_gradient_of_evidence_is_occupancy_over_temperature(seed):
    problem = random_problem(seed, reward="sak")
    found = exact(problem)
    if found.log_evidence == -math.inf:
        return
    gradient = explain_reward(problem.model).evidence_gradient
    want = np.zeros(gradient.shape)
    for start, chance in enumerate(problem.initial):
        for steps, probability, reward in paths(problem, start, 0) if chance else ():
            weight = chance * probability * math.exp(reward / problem.temperature - found.log_evidence)
            for t, (state, action, _, k) in enumerate(steps):
                want[t, state, action, k] += weight * (not problem.terminal[state])
    np.testing.assert_allclose(gradient, want / problem.temperature, atol=1e-9)


def small(discount=1.0):
    ways = np.array([[[0.5, 0.5, 0], [0.2, 0.3, 0.5]], [[1, 0, 0], [0, 0.4, 0.6]], [[0, 0, 1], [0, 0, 1]]])
    process = MDP(ways, [0.75, 0.25, 0.0], terminal=[2], regions={"end": [2], "middle": [1]})
    return TrajectoryModel(process, Goal([2], 2.0) + StepCost(0.3), 4, 1.3, discount)


@pytest.mark.parametrize("backend", ["exact", "variational"])
@pytest.mark.parametrize("discount", [1.0, 0.8])
@pytest.mark.parametrize(("states", "time"), [("end", None), ("middle", None), ([0, 1], 2), ("middle", 0), ("end", 3)])
def test_gradients_against_differences(backend, discount, states, time):
    model = small(discount)
    explained = explain_reward(model, backend, visits=states, time=time)
    mask = model.mdp.states(states)

    def asked(table):
        posterior = cai.infer(model.replace(reward=model.reward + Fixed(table)), backend)
        rows = posterior.state_marginals[:, mask].sum(-1)
        whole = rows[-1] if states == "end" else rows.sum()
        got = whole if time is None else rows[time]
        return float(posterior.elbo), float(got)

    zero = torch.zeros(explained.evidence_gradient.shape, dtype=torch.float64)
    assert explained.visits == pytest.approx(asked(zero)[1], abs=1e-12)
    for place in [(0, 0, 0, 1), (1, 1, 1, 2), (2, 0, 1, 2), (3, 1, 0, 0), (3, 0, 1, 2)]:
        step = zero.clone()
        step[place] = 1e-5
        above, below = asked(step), asked(-step)
        for found, i in ((explained.evidence_gradient, 0), (explained.visit_gradient, 1)):
            assert float(found[place]) == pytest.approx((above[i] - below[i]) / 2e-5, abs=1e-8)


FOLLOWED = ("exact", "optimistic-closed-form", "variational-closed-form", "z-iteration-auto")


@pytest.mark.parametrize("method", [method for method in ALL if str(method) not in FOLLOWED], ids=str)
def test_what_a_backend_cannot_differentiate_is_refused(method):
    """Never shown as no influence."""
    with pytest.raises(ValueError, match=r"use .*'exact' or 'variational'|closed form: 'exact' or"):
        explain_reward(small(), method.backend, visits="end")


@pytest.mark.parametrize("method", [method for method in ALL if str(method) in FOLLOWED], ids=str)
def test_the_others_are_right(method):
    model = small()
    if method.only:
        sure = torch.nn.functional.one_hot(model.mdp.probabilities.argmax(-1), 3).double()
        model = model.replace(mdp=MDP(sure, model.mdp.initial, terminal=[2], regions={"end": [2]}))
    explained = explain_reward(model, method.backend, visits="end")
    zero = torch.zeros(explained.evidence_gradient.shape, dtype=torch.float64)
    for place in [(0, 0, 0, 1), (0, 0, 1, 2), (2, 0, 1, 2), (3, 0, 1, 2)]:
        found = []
        for change in (1e-4, -1e-4):
            step = zero.clone()
            step[place] = change
            posterior = cai.infer(model.replace(reward=model.reward + Fixed(step)), method.backend)
            found.append((float(posterior.elbo.detach()), float(posterior.state_marginals[-1, 2].detach())))
        for gradient, i in ((explained.evidence_gradient, 0), (explained.visit_gradient, 1)):
            assert float(gradient[place]) == pytest.approx((found[0][i] - found[1][i]) / 2e-4, abs=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_the_visits_of_fixed_dynamics(seed):
    """Against the recursion on plain lists, rolled forward."""
    problem = random_problem(seed, forbidden=False)
    explained = explain_reward(problem.model, "variational", visits=[0], time=problem.horizon)
    mass = list(problem.initial)
    for t in range(problem.horizon):
        after = [0.0] * problem.num_states
        for state, weight in enumerate(mass):
            if problem.terminal[state]:
                after[state] += weight
                continue
            _, policy = fixed(problem, state, t)
            for action, prior, following, probability, _, _ in moves(problem, state, t):
                if following is not None and prior:
                    after[following] += weight * policy[action] * probability
        mass = after
    assert explained.visits == pytest.approx(mass[0], abs=1e-9)


# ---- as a whole --------------------------------------------------------------------------------------------------


def test_the_lottery_says_where_its_evidence_comes_from():
    explained = explain_reward(lottery(), visits="lost")
    assert explained.terms == ("Goal(safe)", "Goal(lost)")
    frame = explained.to_frame()
    assert list(frame.index) == ["Goal(safe)", "Goal(lost)", "policy KL", "dynamics KL", "start KL", "r_max", "total"]
    evidence = math.log((math.exp(-1) + (1 + math.exp(-10)) / 2) / 2)
    assert frame.loc["total", "nats"] == pytest.approx(evidence, abs=1e-9)
    safe = math.exp(-1) / 2 / math.exp(evidence)
    assert frame.loc["Goal(safe)", "nats"] == pytest.approx(-safe, abs=1e-9)
    assert float(explained.prior_optimality[0]) == pytest.approx(math.exp(evidence), abs=1e-12)
    assert float(explained.state_map().sum()) == pytest.approx(1.0, abs=1e-12)  # one live step over alpha = 1


def test_named_axes():
    explained = explain_reward(bridge(horizon=5), visits="chasm")
    data = explained.to_xarray()
    assert data.evidence_gradient.dims == ("time", "state", "action", "outcome")
    assert data.shares.sel(share="StepCost").shape == (5,)
    assert float(data.shares.sum()) == pytest.approx(data.attrs["total"], abs=1e-9)


def test_shaping_moves_shares_and_not_policies():
    model = bridge(horizon=5)
    phi = torch.linspace(0, 1, model.mdp.num_states, dtype=torch.float64)
    explained = explain_reward(shaped(model, phi), "variational")
    start = float(model.mdp.initial @ torch.where(model.mdp.terminal, 0.0, phi))
    frame = explained.to_frame()
    assert frame.loc["PotentialShaping", "nats"] == pytest.approx(-start, abs=1e-9)


def test_temperature_one_state_one_action_one_step_and_float32():
    one = TrajectoryModel(MDP(np.ones((1, 1, 1)), [1.0]), -2.0, 1, temperature=4.0)
    explained = explain_reward(one)
    assert explained.total == pytest.approx(-0.5, abs=1e-12)
    assert explained.evidence_gradient.tolist() == [[[[0.25]]]]
    single = explain_reward(small().to(dtype=torch.float32), visits="end")
    double = explain_reward(small(), visits="end")
    assert single.total == pytest.approx(double.total, abs=1e-5)
    torch.testing.assert_close(single.visit_gradient.double(), double.visit_gradient, rtol=0, atol=1e-5)


def test_a_temperature_that_learns():
    alpha = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    model = small().replace(temperature=alpha, optimality="bernoulli")
    explained = explain_reward(model, visits="end")
    assert explained.total == pytest.approx(explain_reward(small().replace(optimality="bernoulli")).total, abs=1e-12)
    assert float(explained.shares.sum()) == pytest.approx(explained.total, abs=1e-9)


@pytest.mark.parametrize("backend", ["exact", "variational"])
def test_on_another_device(backend):
    here = explain_reward(small(0.9), backend, visits="end")
    with elsewhere() as device:
        there = explain_reward(small(0.9).to(device), backend, visits="end")
    for name in ("prior_optimality", "sequential_optimality", "posterior_optimality", "rewards", "costs"):
        torch.testing.assert_close(getattr(there, name), getattr(here, name), rtol=0, atol=1e-12)
    torch.testing.assert_close(there.evidence_gradient, here.evidence_gradient, rtol=0, atol=1e-12)
    torch.testing.assert_close(there.visit_gradient, here.visit_gradient, rtol=0, atol=1e-12)
    there.plot()
    there.to_xarray()


def test_a_long_horizon_and_large_rewards():
    model = small().replace(horizon=200, reward=Goal([2], 1e4) + StepCost(30.0))
    for backend in ("exact", "variational"):
        explained = explain_reward(model, backend)
        assert float(explained.shares.sum()) == pytest.approx(explained.total, rel=1e-12)
        assert bool(torch.isfinite(explained.evidence_gradient).all())


def test_forbidden_outcomes_give_no_nan():
    process = MDP.from_successors([[[0, 1]], [[1, 1]]], [[[0.5, 0.5]], [[1.0, 0.0]]], [1.0, 0.0], terminal=[1])
    model = TrajectoryModel(process, OutcomeReward([[[-math.inf, 1.0]], [[0.0, 0.0]]]), 3)
    explained = explain_reward(model, visits=[1])
    assert explained.total == pytest.approx(1.0 + math.log(0.5), abs=1e-12)
    for table in (explained.shares, explained.evidence_gradient, explained.visit_gradient):
        assert bool(torch.isfinite(table).all())


@pytest.mark.parametrize(
    "explained",
    [
        lambda: explain_reward(bridge(horizon=6), visits="chasm"),
        lambda: explain_reward(bridge(horizon=6), "variational"),
        lambda: explain_reward(lottery(), visits=["lost"]),
        lambda: explain_reward(small(0.9).replace(optimality="bernoulli")),
    ],
    ids=["grid", "fixed", "bars", "bernoulli"],
)
def test_pictures(explained):
    found = explained()
    figure = found.plot()
    assert isinstance(figure, Figure)
    panels = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    assert len(panels) == (3 if found.visit_gradient is None else 4)
    assert all(axis.get_title() and axis.get_xlabel() for axis in panels)


REFUSED = {
    "endless": (
        lambda: explain_reward(small().replace(horizon=math.inf)),
        ValueError,
        r"horizon is infinite.*horizon=N",
    ),
    "program": (lambda: explain_reward(lambda: None), TypeError, r"TrajectoryModel.*function"),
    "other target": (
        lambda: explain_reward(small(), "boltzmann"),
        ValueError,
        r"target other.*'exact' or 'variational'",
    ),
    "no state": (lambda: explain_reward(small(), visits=[]), ValueError, r"names no state"),
    "time": (lambda: explain_reward(small(), visits=[1], time=5), ValueError, r"time is 5.*0 .*to 4"),
    "unknown state": (lambda: explain_reward(small(), visits=[9]), ValueError, r"state 9 does not exist"),
    "impossible": (
        lambda: explain_reward(small().replace(reward=TableReward([-math.inf, -math.inf, 0.0]))),
        InferenceError,
        r"impossible",
    ),
}


@pytest.mark.parametrize(("build", "error", "pattern"), REFUSED.values(), ids=list(REFUSED))
def test_refusals(build, error, pattern):
    with pytest.raises(error, match=pattern):
        build()
