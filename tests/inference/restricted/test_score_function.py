"""Sampled gradients and sampled bounds against the exact ones, and programs that cannot be enumerated."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from campaigns import over_seeds
from methods import FAILURE_RATE
from oracle import random_problem
from refusals import check, holds_no_nan, refuse
from scipy.stats import norm
from scipy.stats import t as student
from torch import nn

from cai.inference import Status, StructuredVariational
from cai.inference.restricted.classes import ObservationPolicy, StationaryPolicy, TabularPolicy
from cai.inference.restricted.natural_gradient import exact_gradient
from cai.inference.restricted.objective import TableBound, begin
from cai.inference.restricted.parameters import Shape
from cai.inference.restricted.restricted import RestrictedVariational
from cai.inference.restricted.rollouts import ProgramSampler, TableSampler
from cai.inference.restricted.score_function import sampled_gradient
from cai.models import MDP, TrajectoryModel, bridge
from cai.models.programs.inspect import inspect_program

WAIT, GO = 0, 1
SOON = norm.isf(FAILURE_RATE / 2)  # standard errors that chance alone exceeds once in a million times


def noisy(model, stationary=True):
    generator = torch.Generator().manual_seed(model.mdp.num_states)
    rows = torch.rand(model.mdp.num_states, 2, generator=generator, dtype=torch.float64)
    return ObservationPolicy(rows / rows.sum(-1, keepdim=True), stationary)


def sampled(policy, model, seed=0, **options):
    return RestrictedVariational(policy, gradient="sampled", **options).run(model, seed=seed)


def somewhere(model, policy, seed):
    """The exact bound of a problem and parameters away from its optimum, None where -inf is unavoidable."""
    bound = TableBound(model)
    problem = begin(RestrictedVariational(policy).policy, bound, model, None)
    parameters = problem.policy
    if problem.blocked:
        return None
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for leaf in parameters.parameters():
            leaf.add_(torch.randn(leaf.shape, generator=generator, dtype=torch.float64))
    return bound, parameters


# ---- the gradient ------------------------------------------------------------------------------------------------

GRADIENTS = {
    "tables": (lambda model: TabularPolicy(), {}),
    "a discount": (lambda model: StationaryPolicy(), {"discount": 0.7}),
    "aliased": (lambda model: ObservationPolicy([s % 2 for s in range(model.mdp.num_states)]), {}),
    "noisy": (noisy, {"discount": 0.9}),
    "a module": (lambda model: nn.Linear(model.mdp.num_states + 1, model.mdp.num_actions), {"forbidden": False}),
}


@pytest.mark.parametrize(
    ("name", "baseline"),
    [*((name, "leave-one-out") for name in GRADIENTS), ("tables", "none"), ("a module", "none")],
)
def test_sampled_gradients_are_unbiased(name, baseline):
    """A t-test of their mean along random directions; batches of three would show a baseline that is biased."""
    policy, options = GRADIENTS[name]
    tested = 0
    for seed in range(20):
        model = random_problem(seed, horizon=3, **options).model
        torch.manual_seed(seed)
        start = somewhere(model, policy(model), seed)
        if start is None or model.mdp.num_actions == 1 or tested == 2:
            continue
        bound, parameters = start
        exact = exact_gradient(bound, parameters, bound.log_prior)
        directions = torch.randn(2, len(exact), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for batch, number in ((3, 100), (400, 25)):
            sampler, random = TableSampler(model, bound.log_prior), torch.Generator().manual_seed(seed)
            rows = [sampled_gradient(sampler, parameters, batch, baseline, random)[0] for _ in range(number)]
            found = torch.stack(rows) @ directions.T
            errors = found.std(0) / math.sqrt(number)
            distance = (found.mean(0) - directions @ exact).abs()
            assert (distance <= student.isf(FAILURE_RATE / 2, number - 1) * errors + 1e-12).all(), (seed, batch)
        tested += bool((errors > 1e-6).any())
    assert tested == 2


def test_the_baseline_takes_noise_away():
    for seed in (3, 5, 9, 11, 13):
        model = random_problem(seed, horizon=3, reward="sa", forbidden=False, discount=1.0, terminals=0.0).model
        model = model.replace(reward=model.reward + 5.0)  # what is paid in any case teaches nothing
        if model.mdp.num_actions == 1:
            continue
        bound, parameters = somewhere(model, TabularPolicy(), seed)
        noise = {}
        for baseline in ("leave-one-out", "none"):
            sampler, random = TableSampler(model, bound.log_prior), torch.Generator().manual_seed(seed)
            found = torch.stack([sampled_gradient(sampler, parameters, 10, baseline, random)[0] for _ in range(100)])
            noise[baseline] = float(found.var(0).sum())
        assert noise["leave-one-out"] < 0.5 * noise["none"], (seed, noise)


@over_seeds(range(12), quick=4)
def test_samples_know_the_bound(seeds):
    for seed in seeds:
        model = random_problem(seed, horizon=3).model.replace(optimality="bernoulli")
        start = somewhere(model, noisy(model), seed)
        if start is None:
            continue
        bound, parameters = start
        exact = float(bound.measure(parameters.table(bound.log_prior).detach()).bound)
        random = torch.Generator().manual_seed(seed)
        totals = TableSampler(model, bound.log_prior).draw(parameters, 4000, random).totals
        assert abs(float(totals.mean()) - exact) <= SOON * float(totals.std()) / math.sqrt(4000) + 1e-9, seed


def test_a_program_is_sampled_as_its_model():
    """The same z-test for trajectories of the program, whose gradients come from its own factors."""
    model = random_problem(5, horizon=3, discount=1.0, terminals=0.0).model
    assert model.mdp.num_actions > 1
    bound, parameters = somewhere(model, StationaryPolicy(), 0)
    exact = exact_gradient(bound, parameters, bound.log_prior)
    sampler = ProgramSampler(lambda: model(), inspect_program(model), None)
    random = torch.Generator().manual_seed(0)
    directions = torch.randn(2, len(exact), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = [sampled_gradient(sampler, parameters, 200, "leave-one-out", random)[0] for _ in range(60)]
    found = torch.stack(rows) @ directions.T
    errors = found.std(0) / math.sqrt(60)
    assert (errors > 1e-6).all()
    assert ((found.mean(0) - directions @ exact).abs() <= student.isf(FAILURE_RATE / 2, 59) * errors).all()


# ---- the fit -----------------------------------------------------------------------------------------------------


def test_sampled_fits_reach_the_optimum():
    """Within five standard errors of what they state; among the problems are rewards of -inf and impossible moves."""
    blocked = 0
    for seed in range(6):
        model = random_problem(seed).model
        want, got = StructuredVariational().run(model), sampled(TabularPolicy(), model, seed, num_eval_samples=2000)
        holds_no_nan(got)
        if not want.status.ok:
            assert got.status is want.status
            assert float(got.elbo) == -math.inf
            blocked += 1
            continue
        assert got.status is Status.SUCCESS, seed
        error = got.details["standard_error"]
        assert abs(float(got.details["estimate"] - want.elbo)) <= 5 * error + 1e-9, seed
        assert float(want.elbo) - 5 * error - 0.02 <= float(got.elbo) <= float(want.elbo) + 1e-9, seed
        parts = got.believed_return / model.temperature - got.policy_divergence - got.luck
        assert float(parts) == pytest.approx(float(got.elbo), abs=1e-9)
    assert blocked > 0


def test_a_sampled_fit_of_a_module_on_the_bridge():
    torch.manual_seed(0)
    model = bridge(horizon=5)
    got = sampled(nn.Linear(23, 4), model, max_iterations=250, num_eval_samples=2000)
    want = RestrictedVariational(nn.Linear(23, 4), max_iterations=60).run(model)
    assert got.details["history"][0] < float(want.elbo) - 1
    assert float(got.elbo) == pytest.approx(float(want.elbo), abs=0.2)


def test_a_problem_too_large_for_tables_over_states():
    """A ring of 20,000 places: the fit follows trajectories, and a table [S, S] would take 3 GB."""
    number = 20_000
    here = torch.arange(number)
    following = torch.stack([here, (here + 1) % number], -1)[..., None]
    initial = torch.zeros(number)
    initial[:2] = 0.5
    mdp = MDP.from_successors(following, torch.ones(number, 2, 1), initial)
    reward = torch.zeros(number, 2)
    reward[:, GO] = 1.0
    model = TrajectoryModel(mdp, reward, 3)
    parity = torch.stack([here % 2, 1 - here % 2], -1).double()
    got = sampled(ObservationPolicy(parity), model, num_samples=50, num_eval_samples=1000)
    assert float(got.elbo) == pytest.approx(3 * math.log((1 + math.e) / 2), abs=0.01)


def test_the_same_seed_gives_the_same_answer_and_nothing_else_is_touched():
    model = bridge(horizon=3)
    state = torch.random.get_rng_state()
    for question in (model, lambda: model()):
        runs = [
            sampled(StationaryPolicy(), question, seed, max_iterations=20, num_eval_samples=50) for seed in (4, 4, 5)
        ]
        assert torch.equal(runs[0].action_probs, runs[1].action_probs)
        assert runs[0].details["history"] == runs[1].details["history"] != runs[2].details["history"]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_fit_that_stops_early_says_so():
    got = sampled(StationaryPolicy(), bridge(horizon=3), max_iterations=7, num_eval_samples=50)
    assert got.status is Status.NOT_CONVERGED
    assert got.details["steps"] == 7


def test_an_interrupted_fit_keeps_what_it_has(monkeypatch, caplog):
    calls, draw = [], TableSampler.draw

    def interrupted(self, policy, num_samples, generator):
        calls.append(1)
        if len(calls) == 31:
            raise KeyboardInterrupt
        return draw(self, policy, num_samples, generator)

    monkeypatch.setattr(TableSampler, "draw", interrupted)
    got = sampled(StationaryPolicy(), bridge(horizon=3), num_eval_samples=500)
    assert got.status is Status.NOT_CONVERGED
    assert got.details["steps"] == 30
    assert "interrupted after 30 steps" in caplog.text
    assert float(got.elbo) > got.details["history"][0] + 1


# ---- programs ----------------------------------------------------------------------------------------------------

MOVE = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.3, 0.7], [0.0, 1.0]]], dtype=torch.float64)
PAYS = torch.tensor([[0.0, 1.0], [0.5, -1.0]], dtype=torch.float64)
PRIOR = torch.tensor([[0.5, 0.5], [0.8, 0.2]], dtype=torch.float64)


def windy(horizon=3, last=True, storm=0.0):
    """A wind of any strength blows at every step; it pays 0 on average, and its square 1 in state 0 after GO."""

    def program():
        state = pyro.sample("s_1", dist.Categorical(torch.tensor([0.6, 0.4], dtype=torch.float64)))
        for t in range(1, horizon + 1):
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[state]))
            wind = pyro.sample(f"wind_{t}", dist.Normal(torch.zeros(()).double(), 1.0))
            calm = torch.where((state == 0) & (action == GO), wind**2, wind)
            pays = PAYS[state, action] + 0.5 * calm
            if storm:
                pays = torch.where(wind > storm, -math.inf, pays)
            pyro.factor(f"O_{t}", pays)
            if last or t < horizon:
                state = pyro.sample(f"s_{t + 1}", dist.Categorical(MOVE[state, action]))

    return program


def windless(horizon=3):
    """The same problem with the wind averaged out."""
    table = PAYS + torch.tensor([[0.0, 0.5], [0.0, 0.0]])
    return TrajectoryModel(MDP(MOVE, [0.6, 0.4]), table, horizon, action_prior=PRIOR)


@pytest.mark.parametrize("last", [True, False])
def test_a_program_with_continuous_latents(last):
    want = StructuredVariational().run(windless())
    got = sampled(TabularPolicy(), windy(last=last), num_eval_samples=20_000)
    assert got.status is Status.SUCCESS
    error = got.details["standard_error"]
    assert got.elbo is got.details["estimate"]
    assert 0 < error < 0.05
    assert abs(float(got.elbo - want.elbo)) <= 5 * error
    assert torch.allclose(got.action_probs, want.action_probs, atol=0.1)
    assert torch.allclose(got.action_prior[1], PRIOR, atol=1e-12)
    assert torch.allclose(got.state_marginals, want.state_marginals[: 3 + last], atol=0.1)
    assert torch.allclose(got.dynamics(0), MOVE, atol=0.1)
    assert got.dynamics(0)[1, GO, 0] == 0
    assert float(got.policy_entropy) == pytest.approx(float(want.policy_entropy), abs=0.1)
    assert float(got.believed_return - got.policy_divergence - got.luck) == pytest.approx(float(got.elbo), abs=1e-9)
    holds_no_nan(got)
    states, actions = got.sample(300, seed=1)
    assert states.shape == (300, 3 + last)
    assert actions.shape == (300, 3)
    assert torch.equal(got.sample(300, seed=1)[0], states)
    assert not ((states[:, 0] == 1) & (actions[:, 0] == GO) & (states[:, 1] == 0)).any()


def test_zero_logits_are_the_programs_own_prior():
    """Also where nothing was enumerated, and nobody knows the prior beforehand."""
    network = nn.Linear(3, 2)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    program = windy()
    parameters = RestrictedVariational(network).policy.start(Shape(3, 2, 2), torch.zeros(1, 2, 2).double())
    draws = ProgramSampler(program, inspect_program(program), None).draw(parameters, 50, torch.Generator())
    assert torch.allclose(draws.ratios, torch.zeros(3, 50).double(), atol=1e-12)


def test_a_discrete_program_keeps_clear_of_minus_infinity():
    """It is small enough to be enumerated for what is forbidden; the fit itself is sampled."""
    forbidden = torch.tensor([[0.0, 1.0], [0.5, -math.inf]], dtype=torch.float64)
    model = TrajectoryModel(MDP(MOVE, [0.6, 0.4]), forbidden, 3, action_prior=PRIOR)
    got, want = sampled(TabularPolicy(), lambda: model(), num_eval_samples=5000), StructuredVariational().run(model)
    assert got.status is Status.SUCCESS
    assert got.action_probs[:, 1, GO].tolist() == [0.0] * 3
    assert abs(float(got.elbo - want.elbo)) <= 5 * got.details["standard_error"] + 1e-3
    torch.manual_seed(0)
    got = sampled(
        nn.Linear(3, 2), lambda: model(), max_iterations=20, num_eval_samples=100
    )  # that has no row to strike from
    assert got.action_probs[:, 1, GO].tolist() == [0.0] * 3
    assert math.isfinite(float(got.elbo))
    lost = model.replace(reward=torch.tensor([[0.0, 1.0], [-math.inf, -math.inf]]))
    assert sampled(TabularPolicy(), lambda: lost()).status is StructuredVariational().run(lost).status


def test_minus_infinity_where_nothing_can_be_enumerated():
    got = sampled(StationaryPolicy(), windy(storm=1.0), num_eval_samples=100)
    assert got.status is Status.UNAVOIDABLE
    assert float(got.elbo) == -math.inf
    assert got.details["steps"] == 1
    holds_no_nan(got)


def continuous_action():
    pyro.sample("s_1", dist.Categorical(torch.ones(2)))
    action = pyro.sample("a_1", dist.Normal(0.0, 1.0))
    pyro.factor("O_1", -(action**2))


def branching():
    state = pyro.sample("s_1", dist.Categorical(torch.ones(2)))
    wind = pyro.sample("wind", dist.Normal(0.0, 1.0))
    action = pyro.sample("a_1", dist.Categorical(torch.ones(2)))
    pyro.factor("O_1", wind if state == action else -wind)


BAD = {
    "continuous action": (lambda: sampled(TabularPolicy(), continuous_action), r"'a_1' is continuous.*Categorical"),
    "enumerated": (
        lambda: RestrictedVariational().run(windy()),
        r"'restricted' enumerates.*'wind_1' is continuous.*gradient='sampled'",
    ),
    "branching": (lambda: sampled(TabularPolicy(), branching), r"many trajectories ran at once.*torch.where"),
    "shape": (lambda: sampled(ObservationPolicy([0, 0, 0]), windy()), r"observations has shape \[3\].*S = 2"),
}


@refuse(BAD)
def test_bad_questions(build, error, pattern):
    check(build, error, pattern)
