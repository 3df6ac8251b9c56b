"""Failures that are answers: optimality impossible, -inf unavoidable, no stationary answer; never a NaN."""

import dataclasses
import json
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from refusals import (
    INF,
    TABLE,
    A,
    S,
    changed,
    check,
    holds_no_nan,
    mdp,
    model,
    no_nan,
)

from cai.evaluation.evaluate import evaluate
from cai.inference import InferenceError, Status, available_backends, infer
from cai.inference.learning.backend import LearnerOptions
from cai.policies.policy import Policy, extract_policy
from cai.studies.comparison import compare

# ---- p(O) = 0 ----------------------------------------------------------------------------------------------------

PRIOR = [0.25, 0.75]
# They accept models of other kinds, or refuse rewards of -inf before they sample: their own tests hold their failures.
NARROW = {"z-iteration", "ilqr", "aico", "mppi"}
LEARNERS = {name for name, backend in available_backends().items() if issubclass(backend, LearnerOptions)}
EVERY_BACKEND = [(name, {}) for name in available_backends() if name not in NARROW | LEARNERS]
EVERY_SOLVER = [*EVERY_BACKEND, ("variational", {"solver": "svi"}), ("optimistic", {"solver": "svi"})]
FIXED = [("variational", {}), ("variational", {"solver": "svi"})]


def impossible(**options):
    """State 0, the start, is forbidden; state 1 is not."""
    return model([-INF, -1.0, 0.0], action_prior=PRIOR, **options)


def lost(**options):
    """The horizon is too short to be saved: whoever is not in state 2 after it is forbidden."""

    def reward(state, action, next_state, t):
        return torch.where((t == 1) & (next_state != 2) & (state != 2), -INF, 0.0)

    return model(reward, mdp(changed(TABLE, ((1, 1), [0.0, 1.0, 0.0])), terminal=[2]), horizon=2, **options)


OPTIONS = [{}, {"discount": 0.9}, {"optimality": "bernoulli"}, {"temperature": 0.1}]
IMPOSSIBLE = [(impossible, options) for options in OPTIONS]
IMPOSSIBLE += [(lost, options) for options in OPTIONS if "discount" not in options]  # it takes some away before


@pytest.mark.parametrize(("build", "options"), IMPOSSIBLE, ids=lambda value: getattr(value, "__name__", repr(value)))
@pytest.mark.parametrize(("backend", "solver"), EVERY_SOLVER)
def test_impossible_optimality_is_raised(build, options, backend, solver):
    with pytest.raises(InferenceError, match=r"p\(O\) = 0.*look at the -inf rewards.*large negative") as caught:
        infer(build(**options), backend, **solver)
    assert caught.value.status is Status.IMPOSSIBLE
    assert caught.value.backend == backend
    assert caught.value.posterior.status is Status.IMPOSSIBLE


@pytest.mark.parametrize("options", [{}, {"discount": 0.9}, {"optimality": "bernoulli"}], ids=repr)
@pytest.mark.parametrize(("backend", "solver"), EVERY_SOLVER)
def test_impossible_optimality_is_an_answer(options, backend, solver):
    posterior = infer(impossible(**options), backend, throw=False, **solver)
    assert posterior.status is Status.IMPOSSIBLE
    assert not posterior.status.ok
    assert float(posterior.elbo) == -INF
    assert posterior.log_evidence is None or float(posterior.log_evidence) == -INF
    torch.testing.assert_close(posterior.action_probs[:, 0], torch.tensor([PRIOR] * 3).double(), rtol=0, atol=1e-12)
    if posterior.values is not None:
        assert (posterior.values[:, 0] == -INF).all()
        assert (posterior.q_values[:, 0] == -INF).all()
    holds_no_nan(posterior)


@pytest.mark.parametrize(("backend", "solver"), EVERY_SOLVER)
def test_impossible_start_does_not_spoil_other_states(backend, solver):
    posterior = infer(impossible(), backend, throw=False, **solver)
    if posterior.values is not None:
        assert (posterior.values[:, 2] == 0).all()
        chance = 0.75 * 0.7 if backend == "max-product" else 1.0  # a mode counts what its own steps have against them
        assert float(posterior.values[-1, 1]) == pytest.approx(-1.0 + math.log(chance), abs=1e-12)


@pytest.mark.parametrize("backend", ["exact", "variational", "optimistic"])
@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_impossible_over_an_infinite_horizon(backend, discount):
    posterior = infer(impossible(horizon=INF, discount=discount), backend, throw=False)
    assert posterior.status is Status.IMPOSSIBLE
    assert float(posterior.elbo) == -INF
    assert posterior.action_probs[0, 0].tolist() == PRIOR
    assert float(posterior.values[0, 0]) == -INF
    holds_no_nan(posterior)


def test_impossible_answers_are_not_used():
    posterior = infer(impossible(), "exact", throw=False)
    check(lambda: posterior.sample(3), ValueError, r"impossible.*p\(O\) = 0")
    check(lambda: extract_policy(posterior), ValueError, r"'exact' holds no policy.*p\(O\) = 0")


def test_impossible_in_a_table():
    table = compare(impossible(), ["exact", "variational", "enumeration"], num_rollouts=10)
    assert [row.status for row in table.rows] == [Status.IMPOSSIBLE] * 3
    rows = json.loads(table.to_json())["rows"]
    assert [row["status"] for row in rows] == ["impossible"] * 3
    assert all(row["elbo"] is None for row in rows)


def forbidden_program():
    state = pyro.sample("s_1", dist.Categorical(torch.tensor([0.5, 0.5]).double()))
    pyro.sample("a_1", dist.Categorical(torch.tensor(PRIOR).double()))
    pyro.factor("O_1", torch.full((2,), -INF).double()[state])


@pytest.mark.parametrize(("backend", "solver"), [("enumeration", {}), ("variational", {}), ("optimistic", {})])
def test_impossible_program(backend, solver):
    posterior = infer(forbidden_program, backend, throw=False, **solver)
    assert posterior.status is Status.IMPOSSIBLE
    torch.testing.assert_close(posterior.action_probs[0], torch.tensor([PRIOR] * 2).double(), rtol=0, atol=1e-12)
    holds_no_nan(posterior)


# ---- what cannot be avoided --------------------------------------------------------------------------------------


def slippery(**options):
    """Whatever is done in state 0 may stay there, which is forbidden."""
    process = mdp(changed(TABLE, ((0, 0), [0.5, 0.5, 0.0])), terminal=[2])
    reward = changed(np.full((S, A, S), -1.0), ((0, slice(None), 0), -INF), ((2,), 0.0))
    return model(reward, process, action_prior=PRIOR, **options)


def forbidden_start(**options):
    """Half of the episodes start in a forbidden state."""
    return model(
        [-INF, -1.0, 0.0], mdp(initial=[0.5, 0.5, 0.0], terminal=[2]), action_prior=PRIOR, horizon=1, **options
    )


@pytest.mark.parametrize("build", [slippery, forbidden_start])
@pytest.mark.parametrize("options", [{}, {"discount": 0.9}, {"optimality": "bernoulli"}], ids=repr)
@pytest.mark.parametrize(("backend", "solver"), FIXED)
def test_unavoidable(build, options, backend, solver):
    with pytest.raises(InferenceError, match=r"unavoidable.*large negative reward.*'exact'") as caught:
        infer(build(**options), backend, **solver)
    posterior = caught.value.posterior
    assert caught.value.status is posterior.status is Status.UNAVOIDABLE
    assert float(posterior.elbo) == -INF
    assert posterior.log_evidence is None
    torch.testing.assert_close(posterior.action_probs[0, 0], torch.tensor(PRIOR).double(), rtol=0, atol=1e-12)
    assert float(posterior.values[0, 0]) == -INF
    holds_no_nan(posterior)


@pytest.mark.parametrize("build", [slippery, forbidden_start])
@pytest.mark.parametrize(
    ("backend", "solver"), [("exact", {}), ("optimistic", {}), ("optimistic", {"solver": "svi"}), ("enumeration", {})]
)
def test_what_cannot_be_avoided_can_be_hoped_for(build, backend, solver):
    posterior = infer(build(), backend, **solver)
    assert posterior.status is Status.SUCCESS
    assert math.isfinite(float(posterior.elbo))
    assert float(posterior.luck) > 0
    holds_no_nan(posterior)


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_unavoidable_over_an_infinite_horizon(discount):
    problem = slippery(horizon=INF, discount=discount)
    posterior = infer(problem, "variational", throw=False)
    assert posterior.status is Status.UNAVOIDABLE
    holds_no_nan(posterior)
    assert infer(problem, "exact").status is Status.SUCCESS


@pytest.mark.parametrize(("backend", "solver"), EVERY_SOLVER)
def test_forbidden_actions_are_avoided(backend, solver):
    posterior = infer(model([[-INF, -1.0], [-1.0, -1.0], [0.0, 0.0]]), backend, **solver)
    assert (posterior.action_probs[:, 0, 0] == 0).all()
    holds_no_nan(posterior)


@pytest.mark.parametrize("backend", ["variational", "optimistic"])
def test_forbidden_actions_leave_both_solvers_the_same_bound(backend):
    problem = model([[-INF, -1.0], [-1.0, -1.0], [0.0, 0.0]])
    bounds = [float(infer(problem, backend, solver=solver).elbo) for solver in ("closed-form", "svi")]
    assert bounds[0] == pytest.approx(bounds[1], abs=1e-9)


def test_forbidden_outcomes_have_no_nan_in_the_world():
    problem = slippery()
    outcome = evaluate(Policy(np.tile(PRIOR, (3, 3, 1))), problem, num_rollouts=50)
    assert outcome.expected_return == -INF
    for field in dataclasses.fields(outcome):
        no_nan(getattr(outcome, field.name), field.name)


# ---- no stationary answer ----------------------------------------------------------------------------------------

MEASURES = (
    "log_evidence",
    "elbo",
    "values",
    "q_values",
    "believed_return",
    "luck",
    "policy_divergence",
    "policy_entropy",
)


@pytest.mark.parametrize("reward", [1.0, 10.0, 1e4])
@pytest.mark.parametrize("backend", ["exact", "optimistic"])
def test_exact_target_diverges_on_positive_rewards(reward, backend):
    problem = model(reward, mdp(), horizon=INF, discount=0.9)
    with pytest.raises(InferenceError, match=r"diverged.*lower the discount.*finite horizon") as caught:
        infer(problem, backend)
    posterior = caught.value.posterior
    assert caught.value.status is posterior.status is Status.DIVERGED
    assert [name for name in MEASURES if getattr(posterior, name) is not None] == []
    assert (posterior.action_probs == 0.5).all()
    holds_no_nan(posterior)


def test_fixed_dynamics_settle_on_positive_rewards_with_a_discount():
    posterior = infer(model(1.0, mdp(), horizon=INF, discount=0.9), "variational")
    assert float(posterior.elbo) == pytest.approx(10.0, abs=1e-6)


def test_nothing_to_pay_is_an_answer():
    posterior = infer(model(0.0, horizon=INF), "variational")
    assert float(posterior.elbo) == 0.0
    assert not posterior.values.any()
    holds_no_nan(posterior)


def test_diverged_answers_are_not_used():
    posterior = infer(model(1.0, mdp(), horizon=INF, discount=0.9), "exact", throw=False)
    check(lambda: extract_policy(posterior), ValueError, r"'exact' holds no policy.*diverged")
    check(lambda: posterior.sample(1), ValueError, r"(infinite horizon|diverged)")


def test_diverged_in_a_table():
    table = compare(model(1.0, mdp(), horizon=INF, discount=0.9), ["exact", "variational"], num_rollouts=10)
    assert [row.status for row in table.rows] == [Status.DIVERGED, Status.SUCCESS]
    line = json.loads(table.to_json())["rows"][0]
    assert line["status"] == "diverged"
    assert line["elbo"] is line["log_evidence"] is line["real_return"] is None


@pytest.mark.parametrize(("backend", "limit"), [("exact", "max_iterations"), ("variational", "max_iterations")])
def test_too_few_backups_are_a_status(backend, limit):
    problem = model(process=mdp(), horizon=INF, discount=0.99)
    posterior = infer(problem, backend, throw=False, accelerate=False, **{limit: 3})
    assert posterior.status is Status.NOT_CONVERGED
    holds_no_nan(posterior)
    with pytest.raises(InferenceError, match=r"not converged.*max_iterations"):
        infer(problem, backend, accelerate=False, **{limit: 3})


@pytest.mark.parametrize(("backend", "limit"), [("exact", "max_iterations"), ("variational", "max_iterations")])
def test_a_terminal_state_out_of_reach_is_a_status(backend, limit):
    process = mdp(changed(TABLE, ((1, 1), [0.0, 1.0, 0.0])), terminal=[2])
    posterior = infer(model(process=process, horizon=INF), backend, throw=False, **{limit: 1000})
    assert posterior.status in (Status.IMPOSSIBLE, Status.DIVERGED)
    holds_no_nan(posterior)
