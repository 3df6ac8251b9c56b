"""Policies fitted to soft values that are known, a step at a time."""

import math

import pyro.distributions as dist
import pytest
import torch
from continuous_policies import NAMES, walk
from gaussian_models import integrator

import cai
from cai.inference import RestrictedVariational
from cai.inference.restricted.continuous.backend import _new_guide
from cai.inference.restricted.continuous.one_step import one_step_gradient
from cai.inference.restricted.continuous.rollouts import GuideParameters, WorldProblem
from cai.inference.restricted.names import read_policy
from cai.inference.restricted.score_function import SamplingOptions
from cai.models import Flat, GridFunction, bridge, discretize, multi_goal

SPREAD = dist.Normal(torch.zeros(2).double(), 1.5).to_event(1)
FIT = {"start": SPREAD, "num_samples": 40, "num_eval_samples": 4000, "learning_rate": 0.03, "throw": False}


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 3.0, "discount": 0.8},
        pytest.param({}, marks=pytest.mark.campaign),
        pytest.param({"action_prior": Flat(1)}, marks=pytest.mark.campaign),
    ],
)
def test_exact_values_lead_to_the_best_policy(changes):
    """On a linear-Gaussian model the bound is that of `variational`, and nothing is lost in any step."""
    model = integrator(horizon=3, **changes)
    best = cai.infer(model, "variational")
    found = cai.infer(model, "restricted", values=best.value, max_iterations=350, **FIT)
    error = 5 * found.details["standard_error"]
    assert float(found.elbo) == pytest.approx(float(best.elbo), abs=error + 0.02)
    assert error < 0.5
    losses = torch.tensor(found.details["history"][-50:])
    assert abs(float(losses.mean())) < 0.05
    assert found.details["history"][0] < -0.05


@pytest.mark.parametrize("policy", ["tanh-gaussian", "flow"])
def test_the_gradient_is_that_of_what_it_measures(policy):
    """Along a random direction, beside differences of the measured loss with the same random numbers."""
    backend = RestrictedVariational(read_policy(NAMES[policy]), values=lambda s, t: s.sin().sum(-1), start=SPREAD)
    guide = _new_guide(backend.policy, walk(), 0)
    problem = WorldProblem(walk(), GuideParameters(guide), False, SPREAD, backend.values)
    options = SamplingOptions(1, 0.1, 3000, 2, "leave-one-out")
    place, step = problem.policy.vector(), 1e-4
    direction = torch.randn(place.shape, generator=torch.Generator().manual_seed(1)).double() / math.sqrt(len(place))

    def measure(moved):
        problem.policy.load(moved)
        return one_step_gradient(problem, options, torch.Generator().manual_seed(2))

    ahead, behind = (measure(place + sign * step * direction)[1].mean() for sign in (1, -1))
    assert float(measure(place)[0] @ direction) == pytest.approx(float(ahead - behind) / (2 * step), rel=0.05)


def test_the_same_seed_gives_the_same_fit_and_files_go_on(tmp_path):
    axis, moves = torch.linspace(-3, 3, 7), torch.linspace(-2, 2, 5)
    model = walk(noise=0.5)
    grid = discretize(model, [axis, axis], [moves, moves])
    values = GridFunction([axis, axis], cai.infer(grid, "variational").values)
    options = {**FIT, "policy": NAMES["mixture"], "values": values, "num_samples": 8, "num_eval_samples": 20}
    options["start"] = torch.tensor([[0.0, 1.0], [-1.0, 0.5]])
    whole = cai.infer(model, "restricted", **options, max_iterations=6)
    cai.infer(model, "restricted", **options, max_iterations=2, folder=tmp_path / "run", checkpoint_every=1)
    again = cai.resume(tmp_path / "run", model=model, max_iterations=6, throw=False)
    assert again.details["history"] == whole.details["history"]
    assert torch.equal(again.elbo, whole.elbo)


@pytest.mark.campaign
def test_a_guide_fitted_to_values_goes_to_all_four_goals():
    """From the origin each goal gets a share, and the bound is under the soft optimum, -23.062."""
    axis, moves = torch.linspace(-7, 7, 29), torch.linspace(-1, 1, 9)
    table = discretize(multi_goal(), [axis, axis], [moves, moves])
    values = GridFunction([axis, axis], cai.infer(table, "variational").values)
    side = torch.full((2,), 7.0).double()
    everywhere = dist.Uniform(-side, side).to_event(1)
    options = {"policy": "tanh-gaussian", "max_iterations": 400, "num_eval_samples": 4000, "throw": False}
    answer = cai.infer(multi_goal(), "restricted", values=values, start=everywhere, **options)
    last = answer.sample(4000, seed=0).states[:, -1]
    goals = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]]).double()
    shares = ((last[:, None] - goals).norm(dim=-1) < 1).double().mean(0)
    assert float(shares.min()) > 0.1
    assert -27.5 < float(answer.elbo) < -23.06


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda: cai.infer(walk(), "restricted", values=lambda s, t: s[:, 0]), "start= gives"),
        (lambda: fit(walk(), lambda s, t: s), r"values returned shape \[32, 2\]"),
        (lambda: fit(walk(), lambda s, t: s[:, 0] * math.nan), "values returned NaN at time index 1"),
        (lambda: fit(walk(), lambda s, t: s[:, 0], gradient="pathwise"), "gradient='pathwise' is for fits to traj"),
        (lambda: fit(walk(), lambda s, t: s[:, 0], baseline="value"), "baseline='value' is for fits to trajectories"),
        (lambda: cai.infer(bridge(), "restricted", values=lambda s, t: s), "values is for fits to trajectories"),
        (
            lambda: fit(multi_goal(), lambda s, t: s[:, 0], start=[[5.0, 0.0]], policy="tanh-gaussian"),
            "every state that start gave is terminal",
        ),
    ],
)
def test_what_is_refused(ask, text):
    with pytest.raises(ValueError, match=text):
        ask()


def test_values_are_a_function():
    with pytest.raises(ValueError, match=r"expected a function \(states \[N, n\], t\) -> \[N\]"):
        cai.infer(walk(), "restricted", values=3.0)


def fit(model, values, **options):
    return cai.infer(model, "restricted", **{**FIT, "values": values, "max_iterations": 2} | options)


def test_values_of_minus_infinity_are_named_as_what_stopped_the_fit():
    """At the nodes of a grid where optimality is impossible, say; every bound of a policy that leads there is -inf."""
    edge = GridFunction([torch.linspace(-2, 2, 5)] * 2, torch.where(torch.arange(25) < 5, -math.inf, 0.0))
    found = cai.infer(integrator(horizon=3), "restricted", values=edge, max_iterations=5, **FIT)
    assert not found.status.ok
    assert "the values given, or a reward, are -inf where the policy leads in step 1 of the fit" in found.details["why"]
    forbidden = walk(reward=lambda s, a, t: torch.where(s[..., 0] > 0, -math.inf, 0.0))
    found = cai.infer(forbidden, "restricted", max_iterations=5, num_eval_samples=10, throw=False)
    assert not found.status.ok
    assert "a reward of -inf was met in step 1 of the fit" in found.details["why"]
