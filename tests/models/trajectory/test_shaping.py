"""Potential-based shaping changes no policy, and where it would it is refused."""

import math

import numpy as np
import pytest
import torch
from campaigns import each_seed
from oracle import exact, fixed, random_problem
from reward_loops import INF, NEXT, A, S, T, agree, both, dense, listed

from cai.inference import infer
from cai.models import MDP, Goal, PotentialShaping, TableReward, TrajectoryModel, bridge, shaped

PHI = torch.tensor([3.0, -2.0, 0.5, 7.0], dtype=torch.float64)  # state 3 is terminal: there it counts as 0
SEEDS = range(30)
ENDS_AT_ZERO = PHI * torch.tensor([1.0, 1.0, 1.0, 0.0])


def potentials(problem, seed, over_time):
    rng = np.random.default_rng(seed + 1000)
    shape = (problem.horizon, problem.num_states) if over_time else (problem.num_states,)
    return torch.as_tensor(rng.normal(0.0, 3.0, size=shape))


# ---- the factor itself -------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_against_a_plain_loop(build, gamma):
    def by_hand(s, a, k, n, t):
        after = 0.0 if t == T - 1 else gamma * float(ENDS_AT_ZERO[n])
        return after - float(PHI[s])

    def tables(process):
        model = TrajectoryModel(process, PotentialShaping(PHI, gamma, T), horizon=T, discount=gamma)
        return torch.stack([model.reward_table(t).expand(process.probabilities.shape) for t in range(T)])

    process = build()
    found = tables(process)
    for t in range(T):
        for s in range(S):
            for a in range(A):
                for k in range(process.num_outcomes):
                    n = k if process.is_dense else NEXT[s][a][k]
                    want = 0.0 if s == 3 else by_hand(s, a, k, n, t)
                    assert float(found[t, s, a, k]) == pytest.approx(want, abs=1e-14)


def test_a_path_earns_minus_its_first_potential():
    """Undiscounted, the sum over any path telescopes, whether it ends early or not."""
    factor = TrajectoryModel(listed(), PotentialShaping(PHI, 1.0, T), horizon=T)
    tables = [factor.reward_table(t) for t in range(T)]

    def walk(s, t):
        if t == T or s == 3:
            yield 0.0
            return
        for a in range(A):
            for k, n in enumerate(NEXT[s][a]):
                for rest in walk(n, t + 1):
                    yield float(tables[t][s, a, k]) + rest

    for start in range(3):
        assert all(total == pytest.approx(-float(PHI[start]), abs=1e-12) for total in walk(start, 0))


# ---- no policy changes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("over_time", [False, True], ids=["one potential", "over time"])
@each_seed(SEEDS, quick=10)
def test_fixed_dynamics_keep_their_policy(seed, over_time):
    """Against the recursion on plain lists of the problem that was not shaped; any discount, T = 1 included."""
    problem = random_problem(seed)
    phi = potentials(problem, seed, over_time)
    posterior = infer(shaped(problem.model, phi), "variational", throw=False)
    alive = torch.tensor(problem.terminal).logical_not()
    for t in range(problem.horizon):
        here = torch.where(alive, phi[t] if over_time else phi, 0.0)
        for state in range(problem.num_states):
            value, policy = fixed(problem, state, t)
            moved = value - float(here[state]) / problem.temperature
            assert float(posterior.values[t, state]) / problem.temperature == pytest.approx(moved, abs=1e-9)
            if policy is not None and math.isfinite(value):
                np.testing.assert_allclose(posterior.action_probs[t, state], policy, atol=1e-9)


@each_seed(SEEDS, quick=10)
def test_the_exact_posterior_keeps_its_policy_and_its_dynamics(seed):
    """Discount 1: against the sum over all paths of the problem that was not shaped."""
    problem = random_problem(seed, discount=1.0)
    found = exact(problem)
    if found.log_evidence == -math.inf:
        return
    phi = potentials(problem, seed, seed % 2 == 0)
    posterior = infer(shaped(problem.model, phi, target="exact"), "exact")
    for (t, state), policy in found.policy.items():
        if not problem.terminal[state]:
            np.testing.assert_allclose(posterior.action_probs[t, state], policy, atol=1e-9)
    for (t, state, action), row in found.dynamics.items():
        np.testing.assert_allclose(posterior.dynamics(t)[state, action], row, atol=1e-9)


BACKENDS = {
    "variational": "fixed",
    "value-iteration": "fixed",
    "restricted": "fixed",
    "exact": "exact",
    "optimistic": "exact",
    "enumeration": "exact",
    "max-product": "exact",
}


# With a discount the exact target is refused, see below.
CASES = [(name, gamma) for name, kind in BACKENDS.items() for gamma in (1.0, 0.8) if kind == "fixed" or gamma == 1]


@pytest.mark.parametrize(("backend", "discount"), CASES)
def test_every_backend_keeps_its_policy_over_a_finite_horizon(backend, discount):
    model = bridge(horizon=6, discount=discount, goal_reward=3.0)
    phi = torch.linspace(-2, 2, model.mdp.num_states, dtype=torch.float64)
    plain, other = (infer(m, backend) for m in (model, shaped(model, phi)))
    counts = plain.state_marginals[:-1] > 1e-9
    tolerance = 1e-4 if backend == "restricted" else 1e-9  # found by ascent
    assert float((plain.action_probs - other.action_probs).abs().amax(-1)[counts].max()) < tolerance


@pytest.mark.parametrize(
    ("backend", "discount"), [case for case in CASES if case[0] in ("variational", "value-iteration", "exact")]
)
def test_every_backend_keeps_its_policy_over_an_infinite_horizon(backend, discount):
    model = TrajectoryModel(dense(), Goal([3], 2.0) + TableReward([-1.5, -3.0, -2.5, 0.0]), INF, discount=discount)
    other = shaped(model, PHI / 20)  # small, so that every reward stays below 0 where a discount does not help
    plain, moved = (infer(m, backend, tolerance=1e-13) for m in (model, other))
    torch.testing.assert_close(moved.action_probs, plain.action_probs, rtol=0, atol=1e-9)
    torch.testing.assert_close(moved.values[0], plain.values[0] - ENDS_AT_ZERO / 20, rtol=0, atol=1e-9)


@pytest.mark.parametrize("optimality", ["factor", "bernoulli"])
def test_the_bound_moves_by_the_potential_of_the_start(optimality):
    model = TrajectoryModel(dense(), Goal([3], 2.0), T, 1.7, 0.9, optimality=optimality)
    plain, other = (infer(m, "variational") for m in (model, shaped(model, PHI)))
    offset = float(other.model.evidence_offset - model.evidence_offset)
    shift = -float(model.mdp.initial @ ENDS_AT_ZERO) / 1.7
    assert float(other.elbo - plain.elbo) - offset == pytest.approx(shift, abs=1e-9)


def test_the_belief_about_a_random_start_moves():
    """p(s_1 | O) is conditioned on O, too, and shaping scores the start; the policy stays."""
    model = TrajectoryModel(dense(), Goal([3], 2.0), T)
    plain, other = (infer(m, "exact") for m in (model, shaped(model, PHI, target="exact")))
    weights = plain.initial * (-ENDS_AT_ZERO).exp()
    torch.testing.assert_close(other.initial, weights / weights.sum(), rtol=0, atol=1e-12)
    torch.testing.assert_close(other.action_probs, plain.action_probs, rtol=0, atol=1e-12)


def test_the_values_themselves_are_a_potential():
    """With Phi = V nothing is left to gain: all values of nonterminal states are 0 (fixed dynamics, any discount)."""
    model = bridge(horizon=8, discount=0.9)
    values = infer(model, "variational").values
    other = infer(shaped(model, values), "variational")
    assert float(other.values[:, ~model.mdp.terminal].abs().max()) < 1e-9


def test_a_potential_learns():
    phi = PHI.clone().requires_grad_()
    model = TrajectoryModel(dense(), Goal([3], 2.0), T, 2.0)
    infer(shaped(model, phi), "variational").elbo.backward()
    torch.testing.assert_close(phi.grad, -model.mdp.initial / 2, rtol=0, atol=1e-12)
    assert float(phi.grad[3]) == 0


# ---- where it does not hold --------------------------------------------------------------------------------------


def lure(discount, horizon):
    """A safe pay at once, or a way round that pays more later."""
    ways = [[[1.0, 0, 0], [0, 0.5, 0.5]], [[0, 0, 1.0], [1.0, 0, 0]], [[0, 0, 1.0], [0, 0, 1.0]]]
    process = MDP(ways, [1.0, 0.0, 0.0], terminal=[2])
    return TrajectoryModel(process, TableReward([[0.5, 0.0], [2.0, 0.0], [0.0, 0.0]]), horizon, discount=discount)


def test_the_exact_target_with_a_discount_is_refused_and_would_change():
    model = lure(0.7, 5)
    with pytest.raises(ValueError, match=r"discount is 0\.7.*exact target.*absorbing state written out"):
        shaped(model, [3.0, -3.0, 0.0], target="exact")
    with_it = model.replace(reward=model.reward + PotentialShaping([3.0, -3.0, 0.0], 0.7, 5))
    plain, other = infer(model, "exact"), infer(with_it, "exact")
    assert float((plain.action_probs - other.action_probs).abs().max()) > 0.01


def test_the_absorbing_state_written_out_can_be_shaped():
    """The remedy that the message names: gamma as a transition into one more terminal state of the process."""
    gamma = 0.7
    short = lure(gamma, 5)
    chances = torch.zeros(4, 2, 4, dtype=torch.float64)
    chances[:3, :, :3] = short.mdp.probabilities
    chances[:2] *= gamma
    chances[:2, :, 3] = 1 - gamma
    chances[3, :, 3] = 1.0
    process = MDP(chances, [1.0, 0.0, 0.0, 0.0], terminal=[2, 3])
    long = TrajectoryModel(process, TableReward([[0.5, 0.0], [2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]), 5)
    plain = infer(short, "exact")
    other = infer(shaped(long, [3.0, -3.0, 9.0, 4.0], target="exact"), "exact")
    torch.testing.assert_close(other.action_probs[:, :2], plain.action_probs[:, :2], rtol=0, atol=1e-9)
    assert float(other.log_evidence) == pytest.approx(float(plain.log_evidence) - 3.0, abs=1e-9)


def test_without_the_end_a_finite_horizon_would_change():
    """Why Phi counts as 0 after the last step: gamma Phi(s') - Phi(s) at every step pays for where one ends."""
    model = lure(1.0, 2)
    phi = torch.tensor([0.0, 6.0, 0.0], dtype=torch.float64)
    careless = model.replace(reward=model.reward + TableReward((phi[None, :] - phi[:, None])[:, None].expand(3, 2, 3)))
    plain = infer(model, "variational").action_probs
    assert float((plain - infer(careless, "variational").action_probs).abs().max()) > 0.1
    torch.testing.assert_close(infer(shaped(model, phi), "variational").action_probs, plain, rtol=0, atol=1e-9)


REFUSED = {
    "other horizon": (lambda m: shaped(m, PHI).replace(horizon=T + 1), r"horizon 3.*horizon 4.*shaped\(model"),
    "other discount": (lambda m: shaped(m, PHI).replace(discount=0.5), r"discount 1 .*discount 0\.5"),
    "no horizon": (lambda m: m.replace(reward=PotentialShaping(PHI)), r"horizon inf; .*horizon 3"),
    "shape": (lambda m: shaped(m, [1.0, 2.0]), r"shape \[2\].*S = 4.*\[S\] or \[T, S\]"),
    "rows": (lambda m: shaped(m, torch.zeros(5, 4)), r"5 rows over time and the horizon is 3"),
    "scalar": (lambda m: shaped(m, 1.0), r"shape \[\].*\[S\]"),
    "infinite": (lambda m: shaped(m, [0.0, -INF, 0.0, 0.0]), r"potential\[1\] is -inf.*finite.*-inf instead"),
    "nan": (lambda m: shaped(m, [0.0, 0.0, math.nan, 0.0]), r"potential\[2\] is nan"),
    "target": (lambda m: shaped(m, PHI, target="other"), r"'other'.*fixed-dynamics"),
}


@pytest.mark.parametrize(("build", "pattern"), REFUSED.values(), ids=list(REFUSED))
def test_refusals(build, pattern):
    with pytest.raises(ValueError, match=pattern):
        build(TrajectoryModel(dense(), Goal([3], 2.0), T))


def test_a_function_of_states_is_a_potential():
    model = TrajectoryModel(dense(), Goal([3], 2.0), T)
    by_function = shaped(model, lambda state: 0.5 * state)
    by_table = shaped(model, [0.0, 0.5, 1.0, 1.5])
    for t in range(T):
        torch.testing.assert_close(by_function.reward_table(t), by_table.reward_table(t), rtol=0, atol=0)
    with pytest.raises(TypeError, match="TrajectoryModel"):
        shaped(dense(), PHI)


def test_half_a_shaping_is_a_shaping():
    agree(dense(), 0.5 * PotentialShaping(PHI, 1.0, T), lambda s, a, k, n, t: _half(s, n, t))


def _half(s, n, t):
    return 0.5 * ((0.0 if t == T - 1 else float(ENDS_AT_ZERO[n])) - float(PHI[s]))
