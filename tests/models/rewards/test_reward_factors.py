"""Functions, modules and tables over time as factors, and what is made of them: against plain loops over all steps."""

import functools
import math

import numpy as np
import pytest
import torch
from reward_loops import INF, NEXT, OF_ACTION, OF_NEXT, OF_STATE, A, S, T, agree, both, dense, listed, slope

from cai.inference import infer
from cai.models import (
    MDP,
    CallableReward,
    Goal,
    LinearReward,
    ModuleReward,
    RewardFactor,
    StepCost,
    TableReward,
    TimeTableReward,
    TrajectoryModel,
    Waypoint,
    as_reward,
    bridge,
    reward_factor,
)

# ---- functions ---------------------------------------------------------------------------------------------------


@reward_factor
def everything(state, action, next_state, t):
    """Looks at everything."""
    return torch.where(state == 3, 0.0, 0.1 * state - 0.2 * action + 0.3 * next_state + 0.7 * t)


@reward_factor(reads_outcome=False, reads_time=False)
def toll(state, action, next_state, t):
    return torch.where((state == 1) & (action == 0), -0.1, 0.0)


@both
def test_decorated_functions(build):
    assert isinstance(everything, RewardFactor)
    assert (toll.reads_outcome, toll.reads_time, everything.reads_outcome) == (False, False, True)
    agree(build(), everything, lambda s, a, k, n, t: 0.1 * s - 0.2 * a + 0.3 * n + 0.7 * t)
    agree(build(), toll, lambda s, a, k, n, t: -0.1 * (s == 1 and a == 0))
    agree(
        build(), everything - 2 * toll, lambda s, a, k, n, t: 0.1 * s - 0.2 * a + 0.3 * n + 0.7 * t + 0.2 * (s == 1 > a)
    )


def test_a_decorated_function_stays_a_function():
    assert float(toll(torch.tensor(1), torch.tensor(0), None, None)) == pytest.approx(-0.1, abs=1e-7)
    assert toll.name == "toll"


def test_numbers_in_a_function_are_float64():
    """0.1 means 0.1: torch would make float32 of a number that meets whole indices."""
    assert torch.get_default_dtype() == torch.float32
    model = TrajectoryModel(dense(), lambda s, a, n, t: torch.where(s == 3, 0.0, 0.1 * n), horizon=1)
    assert float(model.reward_table(0)[0, 0, 1]) == 0.1
    assert torch.get_default_dtype() == torch.float32


def test_partial_functions_and_bound_methods():
    def priced(state, action, next_state, t, *, price):
        return torch.where(state == 3, 0.0, -price * next_state)

    class Prices:
        price = 0.25

        def reward(self, state, action, next_state, t):
            return torch.where(state == 3, 0.0, -self.price * next_state)

    assert as_reward(functools.partial(priced, price=0.25)).name == "priced"
    for function in (functools.partial(priced, price=0.25), Prices().reward):
        agree(dense(), function, lambda s, a, k, n, t: -0.25 * n)


# ---- torch modules -----------------------------------------------------------------------------------------------


class ByIndex(torch.nn.Module):
    """Called with indices, as a function is."""

    def __init__(self):
        super().__init__()
        self.worth = torch.nn.Parameter(torch.tensor([0.3, -0.2, 0.5, 0.0], dtype=torch.float64))

    def forward(self, state, action, next_state, t):
        return torch.where(state == 3, 0.0, self.worth[next_state] * (action + 1))


def linear(inputs, outputs=1, dtype=torch.float64):
    torch.manual_seed(3)
    return torch.nn.Linear(inputs, outputs, bias=False, dtype=dtype)


FEATURES = torch.stack([OF_STATE, OF_STATE**2], -1) / 5  # 0 in the terminal state
PAIRS = torch.stack([OF_ACTION, OF_ACTION**2], -1) / 5
MOVES = torch.stack([OF_NEXT, OF_NEXT**2], -1) / 50


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_modules_of_features(build, dtype):
    net = linear(2, dtype=dtype)
    first, second = net.weight.detach().double()[0].tolist()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for features, row in (
        (FEATURES, lambda s, a, n: FEATURES[s]),
        (PAIRS, lambda s, a, n: PAIRS[s, a]),
        (MOVES, lambda s, a, n: MOVES[s, a, n]),
    ):
        model = TrajectoryModel(build(), ModuleReward(net, features), horizon=1)
        table = model.reward_table(0).expand(model.mdp.probabilities.shape)
        for s in range(S - 1):
            for a in range(A):
                for k in range(model.mdp.num_outcomes):
                    x = row(s, a, k if model.mdp.is_dense else NEXT[s][a][k]).tolist()
                    assert float(table[s, a, k].detach()) == pytest.approx(first * x[0] + second * x[1], abs=tolerance)


def test_a_module_may_give_a_reward_for_each_action():
    net = linear(2, A)
    model = TrajectoryModel(dense(), ModuleReward(net, FEATURES), horizon=1)
    want = FEATURES @ net.weight.detach().T
    torch.testing.assert_close(model.reward_table(0)[..., 0], want, rtol=0, atol=1e-12)


@both
def test_modules_of_indices(build):
    module = ByIndex()
    worth = module.worth.detach().tolist()
    agree(build(), module, lambda s, a, k, n, t: worth[n] * (a + 1))


WAYS = {
    "exact": ("exact", {}),
    "evidence alone": ("exact", {"keep": "evidence"}),
    "optimistic": ("optimistic", {}),
    "variational": ("variational", {}),
    "enumeration": ("enumeration", {}),
    "risk": ("risk", {"eta": -0.5}),
    "exact, endless": ("exact", {"horizon": INF}),
    "variational, endless": ("variational", {"horizon": INF}),
}


@pytest.mark.parametrize(("backend", "options"), WAYS.values(), ids=list(WAYS))
@pytest.mark.parametrize("kind", ["features", "indices", "schedule"])
def test_learned_factors_receive_gradients(backend, options, kind):
    """Of every parameter, through the evidence or the bound: against central differences."""
    options = dict(options)
    horizon = options.pop("horizon", T)
    if kind == "schedule" and horizon == INF:
        horizon = T
    module = torch.nn.Sequential(linear(2, 3), torch.nn.Tanh(), linear(3)) if kind == "features" else ByIndex()
    numbers = torch.tensor([0.5, -0.25, 1.5], dtype=torch.float64, requires_grad=True)
    parameters = [numbers] if kind == "schedule" else list(module.parameters())

    def bound():
        reward = {
            "features": lambda: ModuleReward(module, PAIRS),
            "indices": lambda: CallableReward(module, reads_time=False),
            "schedule": lambda: TableReward(OF_NEXT / 5).scheduled(numbers),
        }[kind]()
        model = TrajectoryModel(dense(), reward, horizon=horizon, discount=0.9 if horizon == T else 0.6)
        answer = infer(model, backend, **options)
        return answer.log_evidence if answer.log_evidence is not None else answer.elbo

    found = torch.autograd.grad(bound(), parameters)
    for parameter, gradient in zip(parameters, found, strict=True):
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            kept, values = float(flat[i]), []
            for change in (1e-5, -1e-5):
                flat[i] = kept + change
                values.append(float(bound().detach()))
            flat[i] = kept
            assert float(gradient.reshape(-1)[i]) == pytest.approx((values[0] - values[1]) / 2e-5, abs=2e-7)


def test_weights_learn_through_z_iteration():
    process = MDP(np.eye(4)[[[1, 2], [2, 0], [3, 1], [3, 3]]], [1.0, 0.0, 0.0, 0.0], terminal=[3])
    weights = torch.tensor([-0.5, -1.0, -0.75], dtype=torch.float64)

    def bound(values):
        model = TrajectoryModel(process, LinearReward(torch.eye(4)[:, :3], values), horizon=INF)
        return infer(model, "z-iteration").elbo

    values = weights.clone().requires_grad_()
    bound(values).backward()
    torch.testing.assert_close(values.grad, slope(bound, weights), rtol=0, atol=1e-7)


# ---- tables over time, schedules, masks --------------------------------------------------------------------------

OVER_TIME = torch.arange(T * S * A * S, dtype=torch.float64).reshape(T, S, A, S) / 7
OVER_TIME[:, 3] = 0


@both
def test_tables_over_time(build):
    agree(build(), TimeTableReward(OVER_TIME), lambda s, a, k, n, t: OVER_TIME[t, s, a, n])
    agree(build(), TimeTableReward(OVER_TIME[..., 0]), lambda s, a, k, n, t: OVER_TIME[t, s, a, 0])
    agree(build(), TimeTableReward(OVER_TIME[..., 0, 0].numpy()), lambda s, a, k, n, t: OVER_TIME[t, s, 0, 0])
    assert not TimeTableReward(OVER_TIME[..., 0]).reads_outcome


@both
@pytest.mark.parametrize(
    "numbers",
    [[1.0, 0.0, -2.0], torch.tensor([1.0, 0.0, -2.0]), lambda t: [1, 0, -2][t]],
    ids=["list", "tensor", "function"],
)
def test_schedules(build, numbers):
    agree(build(), TableReward(OF_NEXT).scheduled(numbers), lambda s, a, k, n, t: OF_NEXT[s, a, n] * [1, 0, -2][t])


def test_a_schedule_of_zero_forbids_nothing():
    forbidden = TableReward([0.0, -INF, 0.0, 0.0]).scheduled([0.0, 1.0, 0.0])
    agree(dense(), forbidden, lambda s, a, k, n, t: -INF if (s, t) == (1, 1) else 0.0)


@both
@pytest.mark.parametrize("actions", [[1], "right", torch.tensor([False, True])], ids=repr)
def test_masks(build, actions):
    process = build()
    process = process.from_successors(
        process.next_states if not process.is_dense else torch.arange(S).expand(S, A, S),
        process.probabilities,
        process.initial,
        terminal=[3],
        state_names=["a", "b", "c", "end"],
        action_names=["left", "right"],
    )
    nexts = process.next_states.tolist()

    def hold(reward, function):
        model = TrajectoryModel(process, reward, horizon=T)
        for t in range(T):
            table = model.reward_table(t).expand(process.probabilities.shape)
            for s in range(S - 1):
                for a in range(A):
                    for k, n in enumerate(nexts[s][a]):
                        assert float(table[s, a, k]) == function(s, a, n, t)

    base = TableReward(OF_NEXT) if process.num_outcomes != S else TableReward(OF_NEXT, explicit=True)
    hold(base.at(actions=actions), lambda s, a, n, t: float(OF_NEXT[s, a, n]) * (a == 1))
    hold(base.at(next_states=["c", "end"]), lambda s, a, n, t: float(OF_NEXT[s, a, n]) * (n in (2, 3)))
    hold(StepCost(1.0).at(transitions=[("a", "b"), (2, 0)]), lambda s, a, n, t: -1.0 * ((s, n) in ((0, 1), (2, 0))))
    mask = torch.zeros(S, S, dtype=torch.bool)
    mask[1, 2] = True
    hold(StepCost(1.0).at(transitions=mask, times=[1]), lambda s, a, n, t: -1.0 * ((s, n, t) == (1, 2, 1)))
    both_sides = StepCost(1.0).at(states=["a"], actions=["left"], next_states=["b"])
    hold(both_sides, lambda s, a, n, t: -1.0 * ((s, a, n) == (0, 0, 1)))
    assert StepCost(1.0).at(actions=[0]).reads_outcome is False
    assert StepCost(1.0).at(transitions=[(0, 1)]).reads_outcome is True


# ---- waypoints ---------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("time", range(T + 1))
def test_waypoint(build, time):
    def paid(s, a, k, n, t):
        return 2.5 * (t == max(time - 1, 0) and (s if time == 0 else n) == 2)

    agree(build(), Waypoint("c", time, 2.5), paid)


def test_a_waypoint_at_every_time_is_a_preference_over_paths():
    """Their sum scores a path by where it is: by brute force over the marginals of the evidence's gradient."""
    model = bridge(horizon=6)
    value = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    reward = sum(Waypoint("bridge", time, value) for time in range(1, 7))
    posterior = infer(model.replace(reward=model.reward + reward), "exact")
    (found,) = torch.autograd.grad(posterior.log_evidence, value)
    want = posterior.state_marginals.detach()[1:, model.mdp.regions["bridge"]].sum()
    assert float(found) == pytest.approx(float(want), abs=1e-9)


# ---- names and terms ---------------------------------------------------------------------------------------------


@both
def test_terms_add_up(build):
    reward = 2 * (TableReward(OF_NEXT) + Goal([3], 4.0)).at(times=[0, 2]) - everything + toll.named("the toll")
    terms = reward.terms()
    assert len(terms) == 4
    agree(build(), sum(terms[1:], start=terms[0]), lambda s, a, k, n, t: _by_hand(s, a, n, t))
    agree(build(), reward, lambda s, a, k, n, t: _by_hand(s, a, n, t))
    names = [term.describe(listed()) for term in terms]
    assert names == ["2 TableReward (restricted)", "2 Goal(end) (restricted)", "-1 everything", "the toll"]


def _by_hand(s, a, n, t):
    own = (2 * float(OF_NEXT[s, a, n]) + 8.0 * (n == 3)) * (t in (0, 2))
    return own - (0.1 * s - 0.2 * a + 0.3 * n + 0.7 * t) - 0.1 * (s == 1 and a == 0)


def test_one_name_makes_one_term():
    both_at_once = (StepCost(1.0) + Goal([3])).named("the trip")
    assert both_at_once.terms() == (both_at_once,)
    assert (2 * both_at_once).terms()[0].describe(dense()) == "2 the trip"


def test_one_state_one_action_one_step():
    process = MDP(np.ones((1, 1, 1)), [1.0])
    for reward in (lambda s, a, n, t: 0.5, TimeTableReward([[0.5]]), StepCost(-1.0).scheduled([0.5])):
        model = TrajectoryModel(process, reward, horizon=1)
        assert float(infer(model, "exact").log_evidence) == pytest.approx(0.5, abs=1e-14)


def test_long_schedules_over_a_long_horizon():
    process = MDP(np.ones((1, 1, 1)), [1.0])
    numbers = [math.cos(t) for t in range(500)]
    model = TrajectoryModel(process, StepCost(-1.0).scheduled(numbers), horizon=500)
    assert float(infer(model, "exact").log_evidence) == pytest.approx(math.fsum(numbers), abs=1e-9)
