"""Continuous models as Pyro programs: their density, what backends for programs make of them, do and condition."""

import math

import networkx as nx
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from gaussian_programs import gaussian_posterior, gaussian_prior
from pyro import poutine
from scipy.stats import multivariate_normal

import cai
from cai.inference import InferenceError, Status
from cai.inference.particles.program_system import run_stacked
from cai.models import (
    ContinuousModel,
    Flat,
    LinearGaussianModel,
    LinearNormal,
    QuadraticReward,
    condition,
    do,
    factor_graph,
    inspect_program,
    multi_goal,
)
from cai.models.continuous.simulate import has_overflown

PRICE, COST, NOISE = 0.4, 0.2, 0.3


def walk(horizon, alpha=1.0, **changes):
    """The random walk of `gaussian_programs`, whose price is for the next state; its rewards are times alpha."""
    later = [[[0.0]], *[[[2 * alpha * PRICE]]] * (horizon - 1)]
    reward = QuadraticReward(Q=later, R=[[2 * alpha * COST]], final=[[2 * alpha * PRICE]])
    arguments = {"noise": [[NOISE**2]], "initial": ([0.5], [[1.0]]), "action_prior": LinearNormal(L=[[0.64]])} | changes
    return LinearGaussianModel([[1.0]], [[1.0]], horizon=horizon, reward=reward, temperature=alpha, **arguments)


def walk_of_functions(horizon, alpha=1.0, **changes):
    """The same as functions."""

    def dynamics(s, a, t):
        return dist.Normal(s + a, NOISE).to_event(1)

    def reward(s, a, t):
        price = PRICE if t else 0.0
        return -alpha * (price * s[..., 0] ** 2 + COST * a[..., 0] ** 2)

    arguments = {
        "initial": dist.Normal(torch.tensor([0.5]).double(), 1.0).to_event(1),
        "action_prior": lambda s, t: dist.Normal(torch.zeros_like(s), 0.8).to_event(1),
        "final_reward": lambda s: -alpha * PRICE * s[..., 0] ** 2,
    } | changes
    return ContinuousModel(dynamics=dynamics, reward=reward, horizon=horizon, temperature=alpha, **arguments)


def log_joint(program, values):
    """Log density of a program's run in which the latents have these values, by site."""
    given = poutine.condition(program, data={name: torch.as_tensor(value) for name, value in values.items()})
    return float(poutine.trace(given).get_trace().log_prob_sum())


def log_revised(program, values):
    """The same of a program some of whose sites are set or known, which must stay latent."""
    known = {name: value[None] for name, value in values.items()}
    return float(sum(run_stacked(program, known, 1, score_latents=True).scores.values()))


@pytest.mark.parametrize("build", [walk, walk_of_functions])
@pytest.mark.parametrize("alpha", [1.0, 2.5])
def test_the_density_of_a_run_is_that_of_the_gaussian(build, alpha):
    horizon = 3
    mean, covariance, prices = gaussian_prior(horizon)
    z = np.linspace(-0.7, 0.9, 2 * horizon + 1)
    values = {f"s_{t + 1}": [z[t]] for t in range(horizon + 1)}
    values |= {f"a_{t + 1}": [z[horizon + 1 + t]] for t in range(horizon)}
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    want = multivariate_normal(mean, covariance).logpdf(z) - 0.5 * z @ prices @ z
    assert log_joint(build(horizon, alpha), values) == pytest.approx(want, abs=1e-10)


def test_what_a_program_of_vectors_is_made_of():
    info = inspect_program(walk(3))
    assert info.latents == ("s_1", "a_1", "s_2", "a_2", "s_3", "a_3", "s_4")
    assert info.factors == ("O_1", "O_2", "O_3")
    assert info.shapes == dict.fromkeys(info.latents, (1,))
    assert info.continuous == info.latents


@pytest.mark.parametrize("build", [walk, walk_of_functions])
@pytest.mark.parametrize("backend", ["smc", "importance"])
def test_particles_answer_it(build, backend):
    model = build(2, 2.0)
    answer = cai.infer(model, backend, num_particles=4000, seed=1)
    mean, covariance = gaussian_posterior(2)
    prior_mean, prior_covariance, prices = gaussian_prior(2)
    inner = np.eye(len(mean)) + prior_covariance @ prices
    log_evidence = 0.5 * prior_mean @ np.linalg.solve(prior_covariance, mean - prior_mean)
    log_evidence -= 0.5 * np.linalg.slogdet(inner)[1]
    assert float(answer.log_evidence) == pytest.approx(log_evidence, abs=0.1)
    assert float(answer.particles.expect(lambda values: values["a_1"][:, 0])) == pytest.approx(mean[3], abs=0.06)
    returns = -0.5 * 2.0 * (mean @ prices @ mean + np.trace(prices @ covariance))
    assert float(answer.believed_return) == pytest.approx(returns, abs=0.15)


@pytest.mark.parametrize("build", [walk, walk_of_functions])
def test_actions_and_states_are_set_and_known(build):
    model = build(2)
    values = {"s_1": [0.1], "a_1": [0.7], "s_2": [0.4], "a_2": [-0.3], "s_3": [0.2]}
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    whole = log_joint(model, values)
    prior = dist.Normal(0.0, 0.8).log_prob(torch.tensor(0.7, dtype=torch.float64))
    for value in (0.7, [0.7], torch.tensor([0.7], dtype=torch.float64)):
        assert log_revised(do(model, {0: value}), values) == pytest.approx(whole - float(prior), abs=1e-6)
    known = condition(model, {"a_1": [0.7], "s_3": 0.2})
    assert log_revised(known, values) == pytest.approx(whole, abs=1e-10)
    assert known.__name__ == f"{model.name} | a_1 = [0.7], s_3 = [0.2]"
    assert cai.infer(known, "smc", num_particles=200).status.ok


def test_vectors_are_set_by_as_many_numbers():
    two = LinearGaussianModel(
        torch.eye(2).double(), torch.eye(2).double(), initial=(torch.zeros(2), torch.eye(2)), horizon=2,
        reward=QuadraticReward(R=torch.eye(2)), action_prior=LinearNormal(L=torch.eye(2)),
    )  # fmt: skip
    assert do(two, {1: np.array([0.1, 0.2])}).interventions == {"a_2": (0.1, 0.2)}
    for bad in (0.5, [0.5], [0.1, math.nan], "left"):
        with pytest.raises((TypeError, ValueError), match=r"give 2 finite numbers|have no names"):
            do(two, {1: bad})


def test_a_known_next_state_of_certain_dynamics_is_possible_or_not():
    certain = walk(2, noise=[[0.0]], initial=([0.5], [[0.0]]))
    known = condition(certain, {"s_1": [0.5]})
    assert cai.infer(known, "smc", num_particles=100).status.ok
    impossible = condition(certain, {"s_1": [0.6]})
    assert not cai.infer(impossible, "smc", num_particles=100, throw=False).status.ok


@pytest.mark.parametrize("prior", [LinearNormal(L=[[1.0]]), Flat()])
def test_its_factor_graph(prior):
    graph = factor_graph(walk(2, action_prior=prior))
    assert nx.is_bipartite(graph)
    assert set(graph.neighbors("f(s_2)")) == {"s_1", "a_1", "s_2"}
    assert set(graph.neighbors("f(O_1)")) == {"s_1", "a_1", "O_1"}
    assert set(graph.neighbors("f(O_2)")) == {"s_2", "a_2", "s_3", "O_2"}
    assert graph.nodes["a_1"]["kind"] == "action"
    assert set(graph.neighbors("f(a_2)")) == ({"a_2"} if isinstance(prior, Flat) else {"s_2", "a_2"})


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_states_that_are_certain_are_in_the_factor_graph_and_ends_are_seen_in_them(discount):
    """A start and moves without noise, terminal states, a discount: what a step needs of the past is in its state."""
    graph = factor_graph(multi_goal(horizon=3, discount=discount))
    coin = {"alive_3"} if discount < 1 else set()
    assert set(graph.neighbors("f(s_1)")) == {"s_1"}
    for t in (2, 3):
        coins = {f"alive_{i}" for i in range(2, t + 1)} if coin else set()
        assert set(graph.neighbors(f"f(s_{t + 1})")) == {f"s_{t}", f"a_{t}", f"s_{t + 1}"} | coins
        assert set(graph.neighbors(f"f(O_{t})")) == {f"s_{t}", f"a_{t}", f"O_{t}"} | coins
    for name in coin:
        assert set(graph.neighbors(f"f({name})")) == {name}


@pytest.mark.parametrize("backend", ["smc", "importance"])
def test_a_flat_model_is_no_program(backend):
    flat = walk(2, action_prior=Flat())
    with pytest.raises(ValueError, match=r"Lebesgue measure.*LinearNormal"):
        flat()
    with pytest.raises(ValueError, match="Lebesgue measure"):
        cai.infer(flat, backend)


@pytest.mark.parametrize(
    ("backend", "words"),
    [("exact", "a Pyro program with continuous sites; for a program use 'smc'"), ("restricted", "or use 'smc'")],
)
def test_backends_of_tables_send_a_model_whose_sites_are_set_to_one_that_answers(backend, words):
    changed = do(walk(2), {"a_1": [1.0]})
    with pytest.raises(ValueError, match=words):
        cai.infer(changed, backend)
    assert cai.infer(changed, "smc").status.ok


def test_a_batch_is_no_program_but_its_members_are():
    batch = walk(2, initial=([[0.0], [1.0]], [[1.0]]))
    with pytest.raises(ValueError, match=r"model.member\(0\)"):
        batch()
    assert batch.member(1).initial.mean.tolist() == [1.0]
    inspect_program(batch.member(1))


def test_a_discount_ends_chains():
    """A chain that has ended earns nothing, stays where it is, and costs log(1 - discount)."""
    model = walk_of_functions(3, discount=0.6, final_reward=None)
    info = inspect_program(model)
    assert info.further == ("alive_2", "alive_3")
    values = {"s_1": [1.0], "a_1": [0.0], "s_2": [2.0], "a_2": [0.0], "s_3": [3.0], "a_3": [0.0], "s_4": [3.0]}
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    alive = {"alive_2": torch.tensor(1.0), "alive_3": torch.tensor(1.0)}
    whole = log_joint(model, values | alive)
    ended = {"alive_2": torch.tensor(1.0), "alive_3": torch.tensor(0.0)}
    stopped = log_joint(model, values | ended)
    last = PRICE * 9 - float(dist.Normal(0.0, NOISE).log_prob(torch.tensor(0.0)))
    assert stopped - whole == pytest.approx(last + math.log(0.4 / 0.6), abs=1e-5)
    moved = values | {"s_4": torch.tensor([3.1]).double()}
    assert log_joint(model, moved | ended) == -math.inf


def test_terminal_states_are_not_left_and_pay_nothing():
    model = walk_of_functions(2, terminal=lambda s: s[..., 0] > 5)
    values = {"s_1": [6.0], "a_1": [0.0], "s_2": [6.0], "a_2": [0.0], "s_3": [6.0]}
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}
    start = dist.Normal(0.5, 1.0).log_prob(torch.tensor(6.0).double())
    prior = 2 * dist.Normal(0.0, 0.8).log_prob(torch.tensor(0.0).double())
    assert log_joint(model, values) == pytest.approx(float(start + prior), abs=1e-6)
    assert cai.infer(model, "smc", num_particles=200).status.ok


@pytest.mark.parametrize("changes", [{}, {"discount": 0.9}, {"noise": None}])
def test_what_is_said_of_the_program_is_what_a_run_shows(changes):
    """Without a run, which may leave the finite numbers. A function around the model hides that it is one."""
    model = walk(3, **changes)
    assert inspect_program(model) == inspect_program(lambda: model())
    assert inspect_program(multi_goal(horizon=2)) == inspect_program(lambda: multi_goal(horizon=2)())


def test_a_particle_that_leaves_the_finite_numbers_is_a_status_with_its_step():
    """Resampling keeps particles where the numbers are finite; importance sampling does not."""
    model = ContinuousModel(
        torch.zeros(1),
        lambda s, a, t: (s + a + 1) ** 3,
        lambda s, a, t: -s.square().sum(-1),
        20,
        LinearNormal(L=torch.eye(1)),
    )
    assert cai.infer(model, "smc").status.ok
    answer = cai.infer(model, "importance", throw=False)
    assert answer.status is Status.NOT_CONVERGED
    assert answer.log_evidence is None
    assert f"the states reached at time index {answer.details['step']} are no finite numbers" in answer.details["why"]
    (row,) = cai.compare(model, ["importance"]).rows
    assert row.status is Status.NOT_CONVERGED
    with pytest.raises(InferenceError, match="shorter horizon"):
        cai.infer(model, "importance")


@pytest.mark.parametrize("backend", ["smc", "importance", "mppi", "ilqr", "aico"])
def test_rewards_that_overflow_with_the_state_forbid_nothing(backend):
    """The square of 1e180 is infinite, so that no trajectory counts: that is a rollout that diverges, at its step."""
    parts = {"initial": torch.ones(1), "horizon": 20, "action_prior": LinearNormal(L=torch.eye(1))}
    grows = ContinuousModel(dynamics=lambda s, a, t: s * 1e30 + a, reward=lambda s, a, t: -s.square().sum(-1), **parts)
    answer = cai.infer(grows, backend, throw=False)
    assert answer.status is Status.NOT_CONVERGED
    assert answer.details["step"] == 6
    assert "finite" in answer.details["why"]


@pytest.mark.parametrize("backend", ["smc", "importance", "mppi"])
def test_rewards_that_forbid_all_leave_no_particle(backend):
    parts = {"initial": torch.ones(1), "horizon": 4, "action_prior": LinearNormal(L=torch.eye(1))}
    never = ContinuousModel(dynamics=lambda s, a, t: s + a, reward=lambda s, a, t: 0 * s[..., 0] - math.inf, **parts)
    answer = cai.infer(never, backend, throw=False)
    assert answer.status is Status.DEGENERATE
    if backend == "mppi":
        assert "met a forbidden reward within lookahead of time index 0" in answer.details["why"]


@pytest.mark.parametrize(("dtype", "large"), [(torch.float32, 1e20), (torch.float64, 1e160)])
def test_what_overflows_depends_on_the_floats(dtype, large):
    """Its square is infinite in these floats; a reward of -inf at a moderate state forbids."""
    states = torch.tensor([[large], [1e6], [large]], dtype=dtype)
    rewards = torch.tensor([-math.inf, -math.inf, -1.0], dtype=dtype)
    assert has_overflown(rewards, states).tolist() == [True, False, False]
