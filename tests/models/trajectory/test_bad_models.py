"""Bad numbers of a model and problems too large are refused; their valid neighbours are not."""

import numpy as np
import pytest
import torch
from refusals import INF, NAN, check, evaluated, holds_no_nan, listed, mdp, model, partly, refuse

from cai.inference import Status, infer
from cai.models import (
    MDP,
    CallableReward,
    StepCost,
    TrajectoryModel,
)

# ---- horizon, temperature, discount, prior -----------------------------------------------------------------------

NUMBERS = {
    "horizon 0": (lambda: model(horizon=0), r"horizon is 0.*at least 1"),
    "horizon -1": (lambda: model(horizon=-1), r"horizon is -1.*at least 1"),
    "horizon 2.5": (lambda: model(horizon=2.5), r"horizon is 2\.5.*whole number.*>= 1.*math\.inf"),
    "horizon True": (lambda: model(horizon=True), r"horizon is True.*whole number"),
    "horizon text": (lambda: model(horizon="20"), r"horizon is '20'.*whole number"),
    "horizon nan": (lambda: model(horizon=NAN), r"horizon is nan.*whole number"),
    "horizon -inf": (lambda: model(horizon=-INF), r"horizon is -inf.*whole number"),
    "horizon None": (lambda: model(horizon=None), r"horizon is None.*whole number"),
    "temperature 0": (lambda: model(temperature=0), r"temperature is 0.*> 0"),
    "temperature -1": (lambda: model(temperature=-1.0), r"temperature is -1.*> 0"),
    "temperature nan": (lambda: model(temperature=NAN), r"temperature is nan.*finite.*above 0"),
    "temperature inf": (lambda: model(temperature=INF), r"temperature is inf.*finite.*above 0"),
    "temperature text": (lambda: model(temperature="1"), r"temperature is '1'.*finite number"),
    "temperature True": (lambda: model(temperature=True), r"temperature is True.*finite number"),
    "temperature None": (lambda: model(temperature=None), r"temperature is None.*finite number"),
    "discount 0": (lambda: model(discount=0.0), r"discount is 0.*\(0, 1\]"),
    "discount 1.5": (lambda: model(discount=1.5), r"discount is 1\.5.*\(0, 1\]"),
    "discount -0.1": (lambda: model(discount=-0.1), r"discount is -0\.1.*\(0, 1\]"),
    "discount nan": (lambda: model(discount=NAN), r"discount is nan.*finite"),
    "discount inf": (lambda: model(discount=INF), r"discount is inf.*finite"),
    "discount text": (lambda: model(discount="0.9"), r"discount is '0\.9'.*finite number"),
    "discount with grad": (
        lambda: model(discount=torch.tensor(0.9, requires_grad=True)),
        r"discount is a tensor that requires grad.*float\(discount\)",
    ),
    "optimality": (lambda: model(optimality="hard"), r"optimality is 'hard'.*'factor'.*'bernoulli'"),
    "infinite with time": (
        lambda: model(StepCost(1.0).at(times=[0]), horizon=INF, discount=0.9),
        r"infinite.*reads t.*without time.*reads_time=False",
    ),
    "infinite function": (
        lambda: model(lambda s, a, n, t: torch.zeros(()), horizon=INF, discount=0.9),
        r"infinite.*reads t",
    ),
    "infinite bernoulli": (
        lambda: model(1.0, horizon=INF, discount=0.9, optimality="bernoulli"),
        r"bernoulli.*r_max = 1\b.*infinitely many.*'factor'",
    ),
    "infinite discounted bernoulli": (
        lambda: model(1.0, mdp(), horizon=INF, discount=0.5, optimality="bernoulli"),
        r"r_max = 1\b.*infinitely",
    ),
    "replaced": (lambda: model().replace(temperature=-2.0), r"temperature is -2.*> 0"),
    "infinite program": (lambda: model(horizon=INF, discount=0.9)(), r"finitely many steps.*horizon=N"),
}


@refuse(NUMBERS)
def test_numbers(build, error, pattern):
    check(build, error, pattern)


PRIORS = {
    "no mass": (
        lambda: model(process=partly(), action_prior=[1.0, 0.0]),
        r"action_prior.*no mass.*state 1.*at least one",
    ),
    "no mass [S, A]": (
        lambda: model(process=partly(), action_prior=[[0.5, 0.5], [1.0, 0.0], [0.5, 0.5]]),
        r"no mass.*state 1\b",
    ),
    "sum [A]": (lambda: model(action_prior=[0.5, 0.6]), r"action_prior.*sums to 1\.1\b.*divide"),
    "sum [S, A]": (
        lambda: model(action_prior=[[0.5, 0.5], [0.5, 0.25], [0.5, 0.5]]),
        r"action_prior\[1\].*0\.75.*divide",
    ),
    "zeros": (lambda: model(action_prior=[0.0, 0.0]), r"action_prior.*sums to 0\b"),
    "negative": (lambda: model(action_prior=[1.5, -0.5]), r"action_prior.*negative.*-0\.5"),
    "nan": (lambda: model(action_prior=[NAN, 1.0]), r"action_prior.*not finite"),
    "inf": (lambda: model(action_prior=[INF, 0.0]), r"action_prior.*not finite"),
    "[S]": (lambda: model(action_prior=[0.5, 0.25, 0.25]), r"action_prior has shape \[3\].*\[A\] = \[2\]"),
    "[A, S]": (
        lambda: model(action_prior=np.full((2, 3), 1 / 3)),
        r"action_prior has shape \[2, 3\].*\[S, A\] = \[3, 2\]",
    ),
    "[T, S, A]": (lambda: model(action_prior=np.full((3, 3, 2), 0.5)), r"action_prior has shape \[3, 3, 2\].*\[S, A\]"),
    "number": (lambda: model(action_prior=0.5), r"action_prior has shape \[\].*\[S, A\]"),
    "text": (lambda: model(action_prior="uniform"), TypeError, r"action_prior.*<U7.*real numbers"),
    "complex": (lambda: model(action_prior=[0.5 + 0j, 0.5]), TypeError, r"action_prior.*complex128.*real"),
}


@refuse(PRIORS)
def test_action_priors(build, error, pattern):
    check(build, error, pattern)


def test_entropy_form_needs_a_uniform_prior():
    check(lambda: model(action_prior=[0.25, 0.75]).entropy_form(), ValueError, r"uniform action prior.*fold")


# ---- too large ---------------------------------------------------------------------------------------------------


def large():
    """10,000 states in a ring, one outcome each: a dense table over (s, a, s') takes 1.6e9 bytes."""
    number = 10_000
    following = torch.stack([torch.arange(number), (torch.arange(number) + 1) % number], -1)[..., None]
    start = torch.nn.functional.one_hot(torch.tensor(0), number)
    return TrajectoryModel(MDP.from_successors(following, torch.ones(number, 2, 1), start), StepCost(1.0), horizon=2)


@pytest.mark.parametrize(
    ("backend", "options", "instead"),
    [
        ("enumeration", {}, "'exact'"),
        ("variational", {"solver": "svi"}, "closed-form"),
        ("optimistic", {"solver": "svi"}, "closed-form"),
    ],
)
def test_too_large_for_a_dense_backend(backend, options, instead):
    with pytest.raises(ValueError, match=rf"1,600,000,000 bytes.*more than.*{instead}"):
        infer(large(), backend, **options)


@pytest.mark.parametrize("backend", ["exact", "variational"])
def test_large_problems_are_answered_by_lists(backend):
    assert float(infer(large(), backend).elbo) == pytest.approx(-2.0, abs=1e-9)


@pytest.mark.parametrize(("backend", "options"), [("enumeration", {}), ("variational", {"solver": "svi"})])
def test_programs_end(backend, options):
    with pytest.raises(ValueError, match=r"finite horizon.*use"):
        infer(model(horizon=INF, discount=0.9), backend, **options)


# ---- the valid neighbours of what is refused ---------------------------------------------------------------------


def test_the_problems_of_this_file_are_valid():
    for problem in (model(), model(process=listed(terminal=[2])), model(horizon=INF, discount=0.9), model(horizon=INF)):
        assert infer(problem, "exact").status is Status.SUCCESS
    assert evaluated().expected_return < 0


@pytest.mark.parametrize(
    "options",
    [
        {"horizon": 1},
        {"horizon": np.int64(3)},
        {"temperature": 1e-3},
        {"discount": 1},
        {"discount": np.float64(0.5)},
        {"discount": torch.tensor(0.5)},
        {"discount": np.array(0.5)},
        {"temperature": np.array(0.5)},
    ],
    ids=repr,
)
def test_edges_of_the_allowed_numbers(options):
    posterior = infer(model(**options), "exact")
    assert posterior.status is Status.SUCCESS
    holds_no_nan(posterior)


def test_infinite_bernoulli_with_r_max_zero():
    problem = model(-1.0, horizon=INF, optimality="bernoulli")
    assert infer(problem, "exact").log_evidence == infer(problem.replace(optimality="factor"), "exact").log_evidence


def test_a_function_that_says_what_it_reads_serves_an_infinite_horizon():
    reward = CallableReward(lambda s, a, n, t: torch.where(s == 2, 0.0, -1.0), reads_time=False)
    assert infer(model(reward, horizon=INF), "variational").status is Status.SUCCESS
