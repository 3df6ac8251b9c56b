"""Reward factors: every one against a plain loop over (s, a, k, s', t)."""

import math

import numpy as np
import pytest
import torch
from reward_loops import (
    INF,
    OF_ACTION,
    OF_NEXT,
    OF_OUTCOME,
    OF_STATE,
    START,
    A,
    S,
    T,
    agree,
    both,
    dense,
    listed,
    slope,
    tables,
)

from cai.evaluation.evaluate import evaluate
from cai.inference import infer
from cai.models import (
    MDP,
    CallableReward,
    Goal,
    LinearReward,
    OutcomeReward,
    RewardFactor,
    StepCost,
    TableReward,
    TrajectoryModel,
    as_reward,
)
from cai.models.rewards.unread import Unread
from cai.policies.policy import Policy, extract_policy
from cai.studies.comparison import compare

UNIFORM = Policy(torch.full((S, A), 1 / A))


# ---- each factor -------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("table", "function"),
    [
        (OF_STATE, lambda s, a, k, n, t: OF_STATE[s]),
        (OF_ACTION, lambda s, a, k, n, t: OF_ACTION[s, a]),
        (OF_NEXT, lambda s, a, k, n, t: OF_NEXT[s, a, n]),
    ],
    ids=["S", "SA", "SAS"],
)
@pytest.mark.parametrize("convert", [torch.Tensor.numpy, torch.Tensor.tolist, TableReward, lambda t: t.float()])
def test_table(build, table, function, convert):
    agree(build(), convert(table), function)


def test_outcome_table():
    agree(listed(), OutcomeReward(OF_OUTCOME), lambda s, a, k, n, t: OF_OUTCOME[s, a, k])


def test_outcome_table_is_recognised_by_its_shape():
    agree(listed(), OF_OUTCOME, lambda s, a, k, n, t: OF_OUTCOME[s, a, k])


@both
def test_function(build):
    def reward(state, action, next_state, t):
        return torch.where(state == 3, 0.0, 1.0 * state - 2.0 * action + 0.5 * next_state + t)

    agree(build(), reward, lambda s, a, k, n, t: s - 2.0 * a + 0.5 * n + t)


@both
def test_function_without_next_state_and_time(build):
    def reward(state, action, next_state, t):
        return torch.where(state == 3, 0, state + 10 * action)

    factor = CallableReward(reward, reads_outcome=False, reads_time=False)
    agree(build(), factor, lambda s, a, k, n, t: s + 10 * a)


def test_function_that_returns_a_number():
    assert (tables(MDP(dense().dense(), START), lambda state, action, next_state, t: 2.5) == 2.5).all()


def test_a_function_is_not_given_what_it_is_said_not_to_read():
    given = []

    def reward(state, action, next_state, t):
        given.extend([next_state, t])
        return np.zeros(())

    tables(dense(), CallableReward(reward, reads_outcome=False, reads_time=False))
    assert given
    assert all(isinstance(index, Unread) and repr(index) for index in given)
    with pytest.raises(ValueError, match="reads next_state, and it was said not to"):
        TrajectoryModel(dense(), CallableReward(lambda s, a, n, t: 1.0 * n, reads_outcome=False))


@both
@pytest.mark.parametrize("states", [[2], "c", ["c"], [False, False, True, False], torch.tensor([2])], ids=repr)
def test_goal(build, states):
    agree(build(), Goal(states, 5.0), lambda s, a, k, n, t: 5.0 if n == 2 and s != 2 else 0.0)


@both
def test_step_cost(build):
    agree(build(), StepCost(0.75), lambda s, a, k, n, t: -0.75)


@both
@pytest.mark.parametrize("number", [2.0, -1, 0])
def test_number(build, number):
    agree(build(), number, lambda s, a, k, n, t: number)


@pytest.mark.parametrize("number", [np.float64(2.0), np.float32(2.0), np.int64(2), torch.tensor(2.0), np.array(2.0)])
def test_number_of_a_library(number):
    agree(dense(), number, lambda s, a, k, n, t: 2.0)


@both
@pytest.mark.parametrize("factor", [StepCost(2.0), Goal([3], 7.0), as_reward(-1.0)], ids=["cost", "goal", "number"])
def test_nothing_is_paid_in_terminal_states(build, factor):
    assert (tables(build(), factor)[:, 3] == 0).all()


@both
def test_linear(build):
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    of_state = torch.stack([OF_STATE, OF_STATE**2], -1)
    of_action = torch.stack([OF_ACTION, OF_ACTION**2], -1)
    of_next = torch.stack([OF_NEXT, OF_NEXT**2], -1)
    agree(build(), LinearReward(of_state, weights), lambda s, a, k, n, t: OF_STATE[s] - 2 * OF_STATE[s] ** 2)
    agree(build(), LinearReward(of_action, weights), lambda s, a, k, n, t: OF_ACTION[s, a] - 2 * OF_ACTION[s, a] ** 2)
    agree(build(), LinearReward(of_next, weights), lambda s, a, k, n, t: OF_NEXT[s, a, n] - 2 * OF_NEXT[s, a, n] ** 2)


class OwnReward(RewardFactor):
    def evaluate(self, mdp, step):
        return torch.where(mdp.terminal[step.state], 0, 100 * step.t + 10 * step.next_state + step.outcome)


@both
def test_own_factor(build):
    agree(build(), OwnReward(), lambda s, a, k, n, t: 100 * t + 10 * n + k)


# ---- what a factor reads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factor", "reads_outcome", "reads_time"),
    [
        (TableReward(OF_STATE), False, False),
        (TableReward(OF_ACTION), False, False),
        (TableReward(OF_NEXT), True, False),
        (OutcomeReward(OF_OUTCOME), True, False),
        (CallableReward(lambda s, a, n, t: 0.0), True, True),
        (Goal([3]), True, False),
        (StepCost(1.0), False, False),
        (StepCost(1.0) + StepCost(2.0), False, False),
        (StepCost(1.0) + Goal([3]), True, False),
        (Goal([3]) + StepCost(1.0), True, False),
        (2 * Goal([3]), True, False),
        (2 * StepCost(1.0), False, False),
        (StepCost(1.0).at(times=[0]), False, True),
        (StepCost(1.0).at(states=[0]), False, False),
        (StepCost(1.0) - OwnReward(), True, True),
    ],
)
def test_what_a_factor_reads(factor, reads_outcome, reads_time):
    assert (factor.reads_outcome, factor.reads_time) == (reads_outcome, reads_time)


@both
def test_reward_that_ignores_the_outcome_has_a_small_table(build):
    process = build()
    assert TrajectoryModel(process, OF_ACTION).reward_table(0).shape == (S, A, 1)
    assert TrajectoryModel(process, OF_NEXT).reward_table(0).shape == process.probabilities.shape


# ---- sums, differences, multiples --------------------------------------------------------------------------------


@both
def test_sum_of_factors(build):
    reward = TableReward(OF_STATE) + Goal([3], 4.0) + StepCost(1.0)
    agree(build(), reward, lambda s, a, k, n, t: OF_STATE[s] + 4.0 * (n == 3) - 1.0)


@both
def test_builtin_sum(build):
    reward = sum([TableReward(OF_ACTION), Goal([3], 4.0), StepCost(1.0)])
    agree(build(), reward, lambda s, a, k, n, t: OF_ACTION[s, a] + 4.0 * (n == 3) - 1.0)


@both
def test_difference_and_sign(build):
    agree(build(), TableReward(OF_NEXT) - Goal([3], 4.0), lambda s, a, k, n, t: OF_NEXT[s, a, n] - 4.0 * (n == 3))
    agree(build(), -TableReward(OF_NEXT), lambda s, a, k, n, t: -OF_NEXT[s, a, n])


@both
@pytest.mark.parametrize("scale", [3, 0.5, -2.0, torch.tensor(1.5), np.float64(2.5)], ids=repr)
def test_multiples(build, scale):
    for reward in (TableReward(OF_NEXT) * scale, scale * TableReward(OF_NEXT)):
        assert isinstance(reward, RewardFactor)
        agree(build(), reward, lambda s, a, k, n, t: OF_NEXT[s, a, n] * float(scale))


@pytest.mark.parametrize("other", [OF_ACTION, OF_ACTION.numpy(), OF_ACTION.tolist()], ids=["tensor", "array", "list"])
def test_tables_add_to_factors(other):
    agree(dense(), StepCost(1.0) + other, lambda s, a, k, n, t: OF_ACTION[s, a] - 1)
    agree(dense(), other + StepCost(1.0), lambda s, a, k, n, t: OF_ACTION[s, a] - 1)
    agree(dense(), StepCost(1.0) - other, lambda s, a, k, n, t: -1 - OF_ACTION[s, a])


def test_numbers_and_functions_add_to_factors():
    def entered(state, action, next_state, t):
        return torch.where(state == 3, 0, next_state * t)

    agree(dense(), TableReward(OF_STATE) + 2, lambda s, a, k, n, t: OF_STATE[s] + 2)
    agree(dense(), 2 + TableReward(OF_STATE), lambda s, a, k, n, t: OF_STATE[s] + 2)
    agree(dense(), TableReward(OF_STATE) - 2, lambda s, a, k, n, t: OF_STATE[s] - 2)
    agree(dense(), TableReward(OF_STATE) + entered, lambda s, a, k, n, t: OF_STATE[s] + n * t)
    agree(dense(), entered + TableReward(OF_STATE), lambda s, a, k, n, t: OF_STATE[s] + n * t)


def test_outcome_and_next_state_rewards_add():
    reward = OutcomeReward(OF_OUTCOME) + TableReward(OF_NEXT)
    agree(listed(), reward, lambda s, a, k, n, t: OF_OUTCOME[s, a, k] + OF_NEXT[s, a, n])


def test_outcome_table_adds_to_a_factor():
    agree(listed(), StepCost(1.0) + OF_OUTCOME, lambda s, a, k, n, t: OF_OUTCOME[s, a, k] - 1)


# ---- at times, in states -----------------------------------------------------------------------------------------


@both
def test_at_times(build):
    agree(build(), Goal([3], 4.0).at(times=[0, 2]), lambda s, a, k, n, t: 4.0 * (n == 3) * (t in (0, 2)))


@both
@pytest.mark.parametrize("states", [[0, 2], ["a", "c"], [True, False, True, False]], ids=repr)
def test_at_states(build, states):
    agree(build(), TableReward(OF_NEXT).at(states=states), lambda s, a, k, n, t: OF_NEXT[s, a, n] * (s in (0, 2)))


@both
def test_at_times_and_states(build):
    reward = StepCost(1.0).at(times=range(1, 3), states=[1]) + 2 * OwnReward().at(times=[0])
    agree(build(), reward, lambda s, a, k, n, t: -1.0 * (s == 1 and t > 0) + 2 * (10 * n + k) * (t == 0))


def test_restricted_reward_leaves_terminal_states_alone():
    everywhere = TableReward(torch.ones(S))
    agree(dense(), everywhere.at(states=~dense().terminal), lambda s, a, k, n, t: 1.0)


def test_minus_infinity_is_restricted_without_nan():
    reward = TableReward(torch.full((S,), -INF)).at(times=[1], states=[0])
    agree(dense(), reward, lambda s, a, k, n, t: -INF if (s, t) == (0, 1) else 0.0)


# ---- [S, A, S] or [S, A, K] --------------------------------------------------------------------------------------


def square():
    """K = S = 2, and outcome 0 leads to state 1."""
    return MDP.from_successors([[[1, 0]], [[1, 0]]], [[[0.25, 0.75]], [[0.5, 0.5]]], [1.0, 0.0])


SQUARE = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]], dtype=torch.float64)


def test_square_table_must_say_what_it_means():
    with pytest.raises(ValueError, match=r"\[2, 1, 2\].*TableReward.*OutcomeReward"):
        TrajectoryModel(square(), SQUARE)


def test_square_table_of_next_states():
    assert TrajectoryModel(square(), TableReward(SQUARE)).reward_table(0).tolist() == [[[2.0, 1.0]], [[4.0, 3.0]]]


def test_square_table_of_outcomes():
    assert TrajectoryModel(square(), OutcomeReward(SQUARE)).reward_table(0).tolist() == SQUARE.tolist()


def test_square_table_of_a_dense_process_is_of_next_states():
    process = MDP(square().dense(), [1.0, 0.0])
    assert TrajectoryModel(process, SQUARE).reward_table(0).tolist() == SQUARE.tolist()


def test_square_table_in_a_sum_must_say_what_it_means():
    with pytest.raises(ValueError, match=r"TableReward.*OutcomeReward"):
        TrajectoryModel(square(), StepCost(1.0) + SQUARE)


def test_outcomes_with_one_next_state_pay_differently():
    process = MDP.from_successors([[[1, 1]], [[1, 1]]], [[[0.25, 0.75]], [[1.0, 0.0]]], [1.0, 0.0], terminal=[1])
    model = TrajectoryModel(process, OutcomeReward([[[1.0, -1.0]], [[0.0, 0.0]]]), horizon=1)
    expected = math.log(0.25 * math.exp(1.0) + 0.75 * math.exp(-1.0))
    assert float(infer(model, "exact").log_evidence) == pytest.approx(expected, abs=1e-12)
    assert float(infer(model, "variational").elbo) == pytest.approx(-0.5, abs=1e-12)


# ---- gradients ---------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_linear_weights_receive_gradients(build, temperature):
    features = torch.stack([OF_NEXT, (OF_NEXT > 0).double()], -1) / 10

    def evidence(weights):
        model = TrajectoryModel(build(), LinearReward(features, weights), horizon=T, temperature=temperature)
        return infer(model, "exact").log_evidence

    weights = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    evidence(weights).backward()
    torch.testing.assert_close(weights.grad, slope(evidence, weights.detach()), rtol=0, atol=1e-8)


def test_gradient_is_the_expected_features_over_temperature():
    features = torch.nn.functional.one_hot(torch.arange(S), S).double()[:, :3]  # the three nonterminal states
    weights = torch.tensor([0.5, -1.0, 0.25], dtype=torch.float64, requires_grad=True)
    model = TrajectoryModel(dense(), LinearReward(features, weights), horizon=T, temperature=2.0)
    posterior = infer(model, "exact")
    posterior.log_evidence.backward()
    visits = posterior.state_marginals[:T, :3].sum(0).detach()
    torch.testing.assert_close(weights.grad, visits / 2.0, rtol=0, atol=1e-12)


def test_weights_receive_gradients_twice():
    weights = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    model = TrajectoryModel(dense(), LinearReward(OF_STATE[:, None], weights), horizon=T)
    slopes = [torch.autograd.grad(infer(model, "exact").log_evidence, weights)[0] for _ in range(2)]
    assert torch.equal(*slopes)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: x * TableReward(OF_STATE),
        lambda x: Goal([3], x),
        lambda x: StepCost(x),
        lambda x: TableReward(OF_STATE) + StepCost(x),
        lambda x: StepCost(x).at(times=[1]),
        lambda x: TableReward(OF_STATE * x),
        lambda x: lambda s, a, n, t: torch.where(s == 3, 0.0, x * n),
    ],
    ids=["scale", "goal", "cost", "sum", "at", "table", "function"],
)
def test_other_parameters_receive_gradients(build):
    def evidence(x):
        return infer(TrajectoryModel(dense(), build(x.squeeze()), horizon=T), "exact").log_evidence

    x = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    evidence(x).backward()
    torch.testing.assert_close(x.grad, slope(evidence, x.detach()), rtol=0, atol=1e-8)


@pytest.mark.parametrize("backend", ["exact", "variational", "optimistic"])
@pytest.mark.parametrize("options", [{"discount": 0.9}, {"discount": 1.0}], ids=repr)
def test_weights_receive_gradients_over_an_infinite_horizon(backend, options):
    def bound(weights):
        model = TrajectoryModel(dense(), LinearReward(torch.eye(S)[:, :3], weights), horizon=INF, **options)
        return infer(model, backend, tolerance=1e-13).elbo

    weights = torch.tensor([-0.5, -1.0, -0.75], dtype=torch.float64, requires_grad=True)
    bound(weights).backward()
    torch.testing.assert_close(weights.grad, slope(bound, weights.detach(), 1e-5), rtol=0, atol=1e-6)


def without_gradients(model):
    with torch.no_grad():
        return infer(model, "exact")


@pytest.mark.parametrize("look", [without_gradients, lambda m: evaluate(UNIFORM, m), lambda m: infer(m, "enumeration")])
def test_gradients_survive_another_look_at_the_model(look):
    cost = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    model = TrajectoryModel(dense(), StepCost(cost), horizon=T)
    look(model)
    infer(model, "exact").log_evidence.backward()
    assert float(cost.grad) < 0


@pytest.fixture
def every_warning():
    # torch gives some warnings only once a process; here they come each time, and are errors
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


LOOKS = {
    "exact": lambda m: infer(m, "exact"),
    "variational": lambda m: infer(m, "variational"),
    "svi": lambda m: infer(m, "variational", solver="svi"),
    "enumeration": lambda m: infer(m, "enumeration"),
    "xarray": lambda m: infer(m, "exact").to_xarray(),
    "sample": lambda m: infer(m, "exact").sample(3),
    "infinite": lambda m: infer(m.replace(horizon=INF, discount=0.5), "exact"),
    "policy": lambda m: extract_policy(infer(m, "exact"), "greedy"),
    "evaluate": lambda m: evaluate(UNIFORM, m),
    "compare": lambda m: compare(m, num_rollouts=10).to_json(),
}


@pytest.mark.usefixtures("every_warning")
@pytest.mark.parametrize("look", list(LOOKS.values()), ids=list(LOOKS))
def test_rewards_with_gradients_raise_no_warning(look):
    cost = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    look(TrajectoryModel(dense(), StepCost(cost), horizon=T))


def test_forbidden_states_give_no_nan_gradient():
    weights = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    forbidden = TableReward([0.0, -INF, 0.0, 0.0])
    model = TrajectoryModel(dense(), LinearReward(OF_STATE[:, None], weights) + forbidden, horizon=T)
    infer(model, "exact").log_evidence.backward()
    assert torch.isfinite(weights.grad).all()


# ---- zero times minus infinity -----------------------------------------------------------------------------------


@pytest.mark.parametrize("zero", [0, 0.0, -0.0, torch.tensor(0.0), torch.tensor(0.0, requires_grad=True)], ids=repr)
def test_zero_times_a_forbidding_reward_is_zero(zero):
    table = OF_ACTION.clone()
    table[0, 1] = -INF
    assert (tables(dense(), zero * TableReward(table)) == 0).all()


def test_positive_multiple_of_a_forbidding_reward_forbids():
    table = OF_ACTION.clone()
    table[0, 1] = -INF
    agree(dense(), 0.5 * TableReward(table), lambda s, a, k, n, t: -INF if (s, a) == (0, 1) else OF_ACTION[s, a] / 2)


def test_negative_multiple_of_a_forbidding_reward_is_refused():
    with pytest.raises(ValueError, match=r"\+inf"):
        TrajectoryModel(dense(), -TableReward([0.0, -INF, 0.0, 0.0]))


def test_scale_zero_receives_a_finite_gradient():
    scale = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
    model = TrajectoryModel(dense(), scale * TableReward([1.0, -INF, 0.5, 0.0]), horizon=2)
    infer(model, "exact").log_evidence.backward()
    assert torch.isfinite(scale.grad)


@pytest.mark.parametrize("backend", ["exact", "optimistic", "enumeration"])
def test_weights_receive_the_same_gradient_from_every_exact_backend(backend):
    features = torch.arange(12, dtype=torch.float64).reshape(4, 3) / 10
    weights = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    process = MDP(np.full((4, 2, 4), 0.25), np.full(4, 0.25))
    posterior = infer(TrajectoryModel(process, LinearReward(features, weights), horizon=3), backend)
    (slope,) = torch.autograd.grad(posterior.log_evidence, weights)
    want = (posterior.state_marginals[:-1].sum(0) @ features).detach()
    assert torch.allclose(slope, want, atol=1e-9)
