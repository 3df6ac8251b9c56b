"""What a first reward gets wrong: each mistake has a message that says what to change."""

import logging
import math

import numpy as np
import pytest
import torch
from refusals import TABLE, check

from cai.inference import infer
from cai.models import (
    MDP,
    CallableReward,
    DistancePenalty,
    Goal,
    LinearReward,
    LogBarrier,
    ModuleReward,
    RewardFactor,
    StepCost,
    TableReward,
    TimeTableReward,
    TrajectoryModel,
    VisitationPenalty,
    Waypoint,
    as_reward,
    bridge,
    reward_factor,
)

S, A, T = 3, 2, 4
NAMES = {"state_names": ["hall", "stairs", "roof"], "action_names": ["stay", "climb"]}


def model(reward, *, terminal=(2,), **options):
    """Three named states, the last terminal, two named actions, four steps."""
    return TrajectoryModel(MDP(TABLE, [1.0, 0.0, 0.0], terminal=list(terminal), **NAMES), reward, T, **options)


def nothing_at_the_end(values):
    """A function of the same rewards, 0 in the terminal state."""
    return lambda state, action, next_state, t: torch.where(state == 2, 0.0, values(state, action, next_state, t))


# ---- refused -----------------------------------------------------------------------------------------------------


def wrong_shape(state, action, next_state, t):
    return torch.zeros(2, 2)


def flattened(state, action, next_state, t):
    return torch.tensor([1.0, 2.0, 0.0]).double()[state.flatten()]


def flattened_and_tiny(state, action, next_state, t):
    return 1e-9 * flattened(state, action, next_state, t)


def relative(state, action, next_state, t):
    return 1.0 * next_state / next_state.max() * (state != 2)


def whole_table(state, action, next_state, t):
    table = torch.ones(S, A, S)
    table[2] = 0
    return table


def branches(state, action, next_state, t):
    if state == 0:
        return 1.0
    return 0.0


def loops(state, action, next_state, t):
    return [1.0 if s == 0 else 0.0 for s in range(3)]


def forgets_return(state, action, next_state, t):
    torch.where(state == 0, 1.0, 0.0)


def takes_two(state, action):
    return -1.0 * state


def mixed_up(state, next_state, action, t):
    return -1.0 * state


def time_first(t, state, action, next_state):
    return -1.0 * state


def one_number(state, action, next_state, t):
    return -float(state)


def item(state, action, next_state, t):
    return -1.0 * state.item()


def math_of(state, action, next_state, t):
    return math.sqrt(state)


HEIGHTS = torch.tensor([0.0, 1.0], dtype=torch.float64)  # one entry short


def too_short(state, action, next_state, t):
    return HEIGHTS[next_state]


def by_action(state, action, next_state, t):
    return torch.tensor([1.0]).double()[action]


def counts_from_one(state, action, next_state, t):
    return {1: -1.0, 2: -2.0, 3: -3.0, 4: -4.0}[t]


def one_step_short(state, action, next_state, t):
    return [-1.0, -2.0, -3.0][t] * (state != 2)


def in_place(state, action, next_state, t):
    state += 1
    return -1.0 * state


def in_place_on_the_next(state, action, next_state, t):
    next_state[next_state == 2] = 0
    return -1.0 * next_state


def not_a_number(state, action, next_state, t):
    return torch.where(state == 2, 0.0, torch.log(1.0 - state))  # log 0 in the stairs is -inf, and allowed


def root(state, action, next_state, t):
    return torch.where(state == 2, 0.0, torch.sqrt(0.5 - action))


WEIGHTS = torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64, requires_grad=True)


def by_numpy(state, action, next_state, t):
    return np.exp(WEIGHTS)[state]


class Features(torch.nn.Module):
    def forward(self, features):
        return features.sum(-1)


class Detached(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))

    def forward(self, features):
        return features @ self.weight.detach()


class Pooled(torch.nn.Module):
    def forward(self, features):
        return features.sum()


class AsFunction(RewardFactor):
    def evaluate(self, state, action, next_state, t):
        return -1.0 * state


class Looks(RewardFactor):
    """A factor of one's own that adds up what it is asked about."""

    def evaluate(self, mdp, step):
        return torch.where(mdp.terminal[step.state], 0.0, 1.0 * step.state.sum())


EYE = torch.eye(3, dtype=torch.float64)
MISTAKES = {
    "wrong shape": (wrong_shape, ValueError, r"wrong_shape returned shape \[2, 2\].*\[3, 2, 3\].*index tables with"),
    "wrong shape of a table": (np.zeros((2, 3)), ValueError, r"shape \[2, 3\].*S = 3, A = 2.*\[S, A\]"),
    "table over time": (np.zeros((T, S, A)), ValueError, r"shape \[4, 3, 2\].*first axis is time.*TimeTableReward"),
    "flattened, tiny": (flattened_and_tiny, ValueError, r"tiny says 0 .* and 1e-09 for the same step.*without flatten"),
    "flattened": (flattened, ValueError, r"flattened says 0 .* and 1 for the same step.*without flatten"),
    "relative to the others": (relative, ValueError, r"relative says .*its own step alone.*max"),
    "whole table": (whole_table, ValueError, r"whole_table returned shape \[3, 2, 3\].*index tables"),
    "branch": (branches, ValueError, r"branches branches on a tensor \('if'.*torch\.where"),
    "loop": (loops, TypeError, r"loops returned list.*torch\.as_tensor"),
    "no return": (forgets_return, TypeError, r"forgets_return returned NoneType.*'return' missing"),
    "two arguments": (takes_two, TypeError, r"takes_two takes \(state, action\).*these four arguments"),
    "order": (mixed_up, TypeError, r"mixed_up takes \(state, next_state, action, t\).*in this order"),
    "time first": (time_first, TypeError, r"time_first.*\(state, action, next_state, t\).*in this order"),
    "float()": (one_number, ValueError, r"one_number failed.*float\(\.\.\.\).*keep the whole tensors"),
    "item()": (item, ValueError, r"item failed.*\.item\(\).*whole tensors"),
    "math": (math_of, ValueError, r"math_of failed.*torch functions for those of math"),
    "table too short": (
        too_short,
        ValueError,
        r"too_short failed with IndexError.*states are 0 to 2.*an entry for each",
    ),
    "actions too short": (by_action, ValueError, r"by_action failed with IndexError.*actions 0 to 1"),
    "said not to read": (
        lambda: CallableReward(lambda s, a, n, t: -1.0 * n, reads_outcome=False),
        ValueError,
        r"reads next_state, and it was said not to \(reads_outcome=False\).*leave that word out",
    ),
    "time from one": (counts_from_one, ValueError, r"counts_from_one failed with KeyError: 0.*t = 0.*t runs from 0"),
    "time too short": (one_step_short, ValueError, r"failed with IndexError.*at t = 3.*from 0 to T - 1"),
    "in place": (in_place, ValueError, r"in_place changes its argument state in place.*state = state \+ 1"),
    "in place, next": (in_place_on_the_next, ValueError, r"changes its argument next_state in place"),
    "NaN": (
        root,
        ValueError,
        r"reward\[0, 1, 0\].*is NaN \(state hall, action climb.*reward function root.*torch\.where",
    ),
    "NaN in a sum": (
        lambda: TableReward([-1.0, 0.0, 0.0]) + TableReward([0.0, math.nan, 0.0]).named("the draught"),
        ValueError,
        r"\[1, 0, 0\] is NaN \(state stairs, action stay\) \(it comes from reward factor the draught\)",
    ),
    "+inf": (TableReward([0.0, math.inf, 0.0]), ValueError, r"\+inf \(state stairs.*-inf for what is forbidden"),
    "numpy on weights": (
        by_numpy,
        ValueError,
        r"by_numpy hands a tensor that requires grad to NumPy.*torch\.exp for np",
    ),
    "reward where all is over": (
        lambda: StepCost(0.1) + TableReward([0.0, 0.0, 5.0]),
        ValueError,
        r"is 5 in terminal state roof; .*on entry with Goal.*it comes from reward factor TableReward",
    ),
    "None": (lambda: None, TypeError, r"NoneType.*'return' missing"),
    "a name": ("goal", TypeError, r"build_reward\('goal', \.\.\.\)"),
    "a class": (Looks, TypeError, r"Looks is a class.*Looks\(\.\.\.\)"),
    "a class of the wrong arguments": (
        AsFunction(),
        TypeError,
        r"AsFunction defines evaluate\(state, action.*step\.state",
    ),
    "a factor that sums": (Looks(), ValueError, r"Looks says .*its own step alone"),
    "module of features": (Features(), TypeError, r"Features takes \(features\).*ModuleReward\(module, features\)"),
    "module class": (lambda: ModuleReward(Features, EYE), TypeError, r"expected an instance of torch\.nn\.Module"),
    "module that detaches": (
        lambda: ModuleReward(Detached(), EYE),
        ValueError,
        r"Detached.*has lost them.*\.detach\(\)",
    ),
    "module that pools": (
        lambda: ModuleReward(Pooled(), EYE),
        ValueError,
        r"Pooled returned shape \[\] for features of shape \[3, 3\].*\[3, 1\] or \[3\], or \[S, A\] = \[3, 2\]",
    ),
    "module of other features": (
        lambda: ModuleReward(torch.nn.Linear(5, 1), EYE),
        ValueError,
        r"Linear cannot be called with features of shape \[3, 3\]",
    ),
    "module in training": (
        lambda: ModuleReward(
            torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1)), EYE
        ),
        ValueError,
        r"other rewards when it is asked twice.*module\.eval\(\)",
    ),
    "features of another process": (lambda: ModuleReward(Features(), torch.eye(4)), ValueError, r"\[4, 4\].*S = 3"),
    "schedule too short": (
        lambda: StepCost(1.0).scheduled([1.0, 2.0]),
        ValueError,
        r"holds 2 numbers.*horizon is 4.*give 4",
    ),
    "schedule of a table": (lambda: StepCost(1.0).scheduled([[1.0]]), ValueError, r"schedule.*\[T\].*TimeTableReward"),
    "schedule with NaN": (
        lambda: StepCost(1.0).scheduled(lambda t: math.nan),
        ValueError,
        r"time index 0 is nan.*0 to switch",
    ),
    "schedule from one": (
        lambda: StepCost(1.0).scheduled({1: 1.0}.__getitem__),
        ValueError,
        r"KeyError: 0.*from 0 to T - 1",
    ),
    "table over time too short": (lambda: TimeTableReward(np.zeros((2, 3))), ValueError, r"has 2 steps.*horizon is 4"),
    "table over time, flat": (lambda: TimeTableReward(np.zeros(4)), ValueError, r"\[4\].*\[T, S\]"),
    "table over time, turned": (lambda: TimeTableReward(np.zeros((3, 4))), ValueError, r"\[3, 4\].*S = 3.*\[T, S\]"),
    "waypoint after the end": (
        lambda: Waypoint("roof", 5),
        ValueError,
        r"time of .*Waypoint\(roof, 5\) is 5.*states 0 to 4",
    ),
    "waypoint at half": (lambda: Waypoint("roof", 1.5), ValueError, r"time of Waypoint is 1\.5.*from 0 to T"),
    "action mask": (
        lambda: StepCost(1.0).at(actions=["jump"]),
        ValueError,
        r"no action is called 'jump'; names are stay",
    ),
    "action out of range": (
        lambda: StepCost(1.0).at(actions=[2]),
        ValueError,
        r"action 2 does not exist; actions are 0 to 1",
    ),
    "transition mask": (
        lambda: StepCost(1.0).at(transitions=torch.ones(2, 2, dtype=torch.bool)),
        ValueError,
        r"shape \[2, 2\].*bool \[S, S\] = \[3, 3\]",
    ),
    "lone transition": (lambda: StepCost(1.0).at(transitions=(0, 1)), TypeError, r"transitions holds 0;.*pairs"),
    "no way": (lambda: DistancePenalty("hall").at(states=["stairs"]) + DistancePenalty([]), ValueError, r"no target"),
    "metric": (lambda: DistancePenalty("hall", metric="miles"), ValueError, r"'miles'.*steps, manhattan, euclidean"),
    "no layout": (
        lambda: DistancePenalty("hall", metric="manhattan"),
        ValueError,
        r"needs a process with a layout.*'steps'",
    ),
    "distance table": (lambda: DistancePenalty("hall", metric=[0.0, -1.0, 2.0]), ValueError, r"distances are >= 0"),
    "visits": (lambda: VisitationPenalty([0.0, -1.0, 2.0]), ValueError, r"visits\[1\] is -1\.0.*>= 0"),
    "visits of another": (lambda: VisitationPenalty(np.zeros((4, 7))), ValueError, r"\[4, 7\].*S = 3"),
    "slack": (lambda: LogBarrier([1.0, math.nan, 1.0]), ValueError, r"slack.*finite numbers \[S\]"),
    "barrier weight": (
        lambda: LogBarrier([1.0, 1.0, 1.0], 0.0),
        ValueError,
        r"weight of LogBarrier is 0; it must be > 0",
    ),
    "a nameless name": (lambda: StepCost(1.0).named(""), TypeError, r"name of a reward is ''"),
}


@pytest.mark.parametrize(("mistake", "error", "pattern"), MISTAKES.values(), ids=list(MISTAKES))
def test_the_message_says_what_to_change(mistake, error, pattern):
    def build():
        made = mistake() if getattr(mistake, "__name__", "") == "<lambda>" else mistake
        return model(made)

    check(build, error, pattern)


def test_the_messages_of_functions_name_them_when_decorated_too():
    for function in (takes_two, mixed_up):
        with pytest.raises(TypeError, match=function.__name__):  # where it is defined, not where it is used
            reward_factor(function)
    with pytest.raises(ValueError, match="branches branches"):
        model(reward_factor(branches))
    with pytest.raises(TypeError, match="is no function"):
        reward_factor(AsFunction)


def test_a_function_cannot_damage_the_process():
    process = MDP.from_successors([[[0, 1]], [[1, 1]]], [[[0.5, 0.5]], [[1.0, 0.0]]], [1.0, 0.0])
    before = process.next_states.clone()
    with pytest.raises(ValueError, match="in place"):
        TrajectoryModel(process, lambda s, a, n, t: n.mul_(2), T)
    assert torch.equal(process.next_states, before)


# ---- said in the log ---------------------------------------------------------------------------------------------


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING, logger="cai.models")
    return caplog


def fuel_cost(state, action, next_state, t):
    return torch.where(state == 2, 0.0, 1.0 + action)


def penalty_for_noise(state, action, next_state, t):
    return torch.where(state == 2, 0.0, -1.0 - action)


def test_a_cost_that_is_returned_as_a_reward(said):
    model(reward_factor(fuel_cost) + Goal("roof", 10.0))
    assert "reward function fuel_cost is called a cost and adds rewards of up to 2, none below 0" in said.text
    assert "Use -fuel_cost, or return the cost with a minus" in said.text


@pytest.mark.parametrize(
    ("restriction", "words"),
    [
        ({"states": []}, "an empty set of states"),
        ({"actions": torch.zeros(2, dtype=torch.bool)}, "an empty set of actions"),
        ({"next_states": []}, "an empty set of next states"),
        ({"transitions": []}, "an empty set of transitions"),
        ({"times": range(0)}, "an empty set of times"),
    ],
)
def test_a_restriction_to_nothing(said, restriction, words):
    model(StepCost(1.0).at(**restriction))
    assert f"is restricted to {words}, so it is never paid" in said.text


def test_what_is_no_such_mistake_is_not_warned_of(said):
    model(-reward_factor(fuel_cost) + Goal("roof", 10.0))
    model(penalty_for_noise)
    model(reward_factor(fuel_cost).named("bonus") * -0.5)
    model(StepCost(1.0))
    model(lambda s, a, n, t: torch.where(s == 2, 0.0, 1.0))
    assert not said.text


def test_it_is_said_once(said):
    factor = reward_factor(fuel_cost)
    for _ in range(3):
        model(factor).replace(horizon=2)
    assert said.text.count("is called a cost") == 1


def test_digits_that_were_lost(said):
    model(torch.tensor([0.1, -0.25, 0.0]))
    assert "reward came as float32 and holds 0.10000000149, probably for 0.1" in said.text
    assert "dtype=torch.float64" in said.text
    said.clear()
    table = np.array([0.1, -0.3, 0.0], dtype=np.float32)
    model(lambda s, a, n, t: torch.as_tensor(table)[s])
    assert "returned float32 with" in said.text
    assert "dtype=torch.float64" in said.text


def test_digits_that_were_not(said):
    model(torch.tensor([0.5, -3.0, 0.0]))  # exact in float32, too
    model(torch.tensor([0.1, -0.3, 0.0], requires_grad=True))  # found by learning: no more is known
    model(lambda s, a, n, t: torch.where(s == 2, 0.0, 0.1))
    model(np.array([0.1, 0.2, 0.0]))
    assert not said.text


LEARNED = torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64, requires_grad=True)


def detached(state, action, next_state, t):
    return LEARNED.detach()[state]


def test_gradients_that_were_lost(said):
    model(detached)
    assert "reward function detached sees tensors that require grad, and its results do not" in said.text
    assert "without .detach()" in said.text


def test_gradients_that_were_not(said):
    model(lambda s, a, n, t: LEARNED[s])
    model(lambda s, a, n, t: LEARNED[s] if t == 3 else torch.zeros(()))  # at one time is enough
    with torch.no_grad():
        model(lambda s, a, n, t: LEARNED[s])
    assert not said.text


def test_times_after_the_end(said):
    model(Goal("roof", 1.0).at(times=range(1, T + 1)))
    assert "restricted to time index 4, and a horizon of 4 has the indices 0 to 3" in said.text
    said.clear()
    model(Goal("roof", 1.0).at(times=range(T)))
    assert not said.text


def test_a_row_too_many(said):
    model(TimeTableReward(np.zeros((T + 1, S))))
    assert "has 5 rows for a horizon of 4: the last is never paid" in said.text


# ---- what is right stays quiet, and costs nothing ------------------------------------------------------------------


def test_what_is_right_passes(said):
    for reward in (
        nothing_at_the_end(lambda s, a, n, t: 0.1 * s - a + 0.3 * n + t),
        LinearReward(torch.eye(3)[:, :2], [1.0, 2.0]),
        CallableReward(lambda s, a, n, t: torch.where(s == 2, 0.0, 1.0), reads_outcome=False, reads_time=False),
        ModuleReward(torch.nn.Linear(3, 1, bias=False).double(), EYE * torch.tensor([1.0, 1.0, 0.0])),
        as_reward(not_a_number),
    ):
        found = infer(model(reward), "exact", throw=False)
        assert not found.values.isnan().any()
    assert not said.text


def test_ten_lines_to_a_result():
    """From a function to a compared result, as the notebook does it."""

    @reward_factor(reads_time=False)
    def windy(state, action, next_state, t):
        return torch.where(next_state % 2 == 1, -0.5, 0.0)

    from cai import compare

    problem = bridge(horizon=8)
    problem = problem.replace(reward=problem.reward + windy.at(states=~problem.mdp.terminal))
    assert all(row.status.ok for row in compare(problem, ["exact", "variational"], num_rollouts=10).rows)


def test_paying_for_the_next_state_pays_again_in_a_terminal_one():
    model = bridge()
    goal = model.mdp.regions["goal"]

    def arrive(state, action, next_state, t):
        return torch.where(goal[next_state], 5.0, 0.0)

    with pytest.raises(ValueError, match=r"leads to itself.*torch.where\(mdp.terminal\[state\], 0.0, ...\)"):
        model.replace(reward=arrive)
    kept = model.replace(reward=as_reward(arrive).at(states=~model.mdp.terminal))
    assert float(kept.reward_table(0).max()) == 5.0


def test_names_in_a_reward_function_are_told_from_numbers():
    def at_start(state, action, next_state, t):
        return torch.where(state == "start", 1.0, 0.0)

    with pytest.raises(ValueError, match=r"at_start compares an index with a name.*mdp.state_index\(name\)"):
        bridge().replace(reward=at_start)


def test_unknown_places_list_the_regions():
    with pytest.raises(ValueError, match=r"no state is called 'abyss'; regions are .*chasm.*; names are .*, \.\.\."):
        bridge().replace(reward=Goal("abyss", 1.0))
