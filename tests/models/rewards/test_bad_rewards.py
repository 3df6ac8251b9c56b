"""Bad rewards are refused by name."""

import math

import numpy as np
import torch
from refusals import INF, NAN, TABLE, A, S, changed, check, listed, model, refuse

from cai.models import (
    Goal,
    LinearReward,
    OutcomeReward,
    RewardFactor,
    StepCost,
    TableReward,
    TrajectoryModel,
    Waypoint,
)

# ---- rewards -----------------------------------------------------------------------------------------------------


def bad_at(index, value):
    return changed(np.zeros((S, A)), (index, value))


def at_time_one(value):
    return lambda state, action, next_state, t: torch.where(state == 2, 0.0, value if t == 1 else -1.0)


REWARD_VALUES = {
    "nan table": (lambda: model(bad_at((1, 0), NAN)), r"reward\[1, 0, 0\] is NaN.*numbers, or -inf"),
    "inf table": (lambda: model(bad_at((0, 1), INF)), r"reward\[0, 1, 0\] is \+inf.*numbers, or -inf"),
    "nan [S]": (lambda: model([0.0, NAN, 0.0]), r"reward\[1, 0, 0\] is NaN"),
    "inf [S, A, S]": (lambda: model(np.full((S, A, S), INF)), r"reward\[0, 0, 0\] is \+inf"),
    "nan outcome": (
        lambda: model(OutcomeReward(changed(np.zeros((S, A, 2)), ((1, 1, 1), NAN))), listed()),
        r"reward\[1, 1, 1\] is NaN",
    ),
    "nan number": (lambda: model(NAN), r"reward.* is NaN"),
    "inf number": (lambda: model(INF), r"reward.* is \+inf"),
    "nan function": (lambda: model(lambda s, a, n, t: torch.where(n == 1, NAN, 0.0)), r"reward\[0, 0, 1\].*is NaN"),
    "inf function": (lambda: model(lambda s, a, n, t: torch.where(a == 1, INF, 0.0)), r"reward.*is \+inf"),
    "nan at one time": (lambda: model(at_time_one(NAN)), r"reward.*time index 1 is NaN"),
    "inf at one time": (lambda: model(at_time_one(INF)), r"reward.*time index 1 is \+inf"),
    "nan at the last time": (lambda: model(StepCost(NAN).at(times=[2])), r"reward.*time index 2 is NaN"),
    "nan cost": (lambda: model(StepCost(NAN)), r"reward.* is NaN"),
    "minus a forbidden": (lambda: model(-TableReward([-INF, 0.0, 0.0])), r"reward.* is \+inf"),
    "forbidden minus forbidden": (
        lambda: model(TableReward([-INF, 0.0, 0.0]) - TableReward([-INF, 0.0, 0.0])),
        r"reward.* is NaN",
    ),
    "nan goal": (lambda: model(Goal([2], NAN)), r"reward.* is NaN"),
    "inf goal": (lambda: model(Goal([2], INF)), r"reward.* is \+inf"),
    "nan weights": (lambda: model(LinearReward(np.eye(3), [NAN, 0.0, 0.0])), r"(weights|reward).*NaN"),
    "nan features": (
        lambda: model(LinearReward(np.full((3, 1), NAN), [1.0])),
        r"features.*NaN or infinite.*-inf instead",
    ),
    "nan scale": (lambda: StepCost(1.0) * NAN, r"scaled by nan.*finite"),
    "inf scale": (lambda: INF * StepCost(1.0), r"scaled by inf.*finite"),
    "terminal": (
        lambda: model([0.0, 0.0, 5.0]),
        r"reward\[2, 0, 0\] is 5 in terminal state 2.*on entry.*Goal.*at\(states",
    ),
    "terminal function": (
        lambda: model(lambda s, a, n, t: 1.0 * t),
        r"time index 1 is 1 in terminal state 2.*on entry",
    ),
    "terminal -inf": (lambda: model([0.0, 0.0, -INF]), r"is -inf in terminal state 2.*on entry"),
    "terminal outcome": (
        lambda: model(OutcomeReward(np.full((S, A, 2), -1.0)), listed(terminal=[2])),
        r"-1 in terminal state 2",
    ),
}


@refuse(REWARD_VALUES)
def test_reward_values(build, error, pattern):
    check(build, error, pattern)


class Returns(RewardFactor):
    """A user's factor that returns one thing whatever it is asked."""

    def __init__(self, values):
        self.values = values

    def evaluate(self, mdp, step):
        return self.values


class Undefined(RewardFactor):
    """A user's factor that forgot to define its method."""


REWARD_SHAPES = {
    "[A]": (lambda: model([1.0, 2.0]), r"reward has shape \[2\].*S = 3, A = 2.*expected \[S\], \[S, A\]"),
    "[A, S]": (lambda: model(np.zeros((2, 3))), r"reward has shape \[2, 3\].*S = 3, A = 2.*\[S, A\]"),
    "[S, A, 2]": (lambda: model(np.zeros((3, 2, 2))), r"reward has shape \[3, 2, 2\].*\[S, A, S\]"),
    "[1, 1, 1, 1]": (lambda: model(np.zeros((1, 1, 1, 1))), r"reward has shape \[1, 1, 1, 1\].*\[S, A\]"),
    "ragged": (lambda: model([[1.0], [1.0, 2.0]]), r"reward.*ragged.*equal length"),
    "outcome": (
        lambda: model(OutcomeReward(np.zeros((3, 2, 3))), listed()),
        r"shape \[3, 2, 3\].*\[S, A, K\] = \[3, 2, 2\]",
    ),
    "outcome number": (lambda: model(OutcomeReward(1.0), listed()), r"shape \[\].*\[S, A, K\] = \[3, 2, 2\]"),
    "outcome table as a table": (
        lambda: model(TableReward(np.zeros((3, 2, 2))), listed()),
        r"reward has shape \[3, 2, 2\].*OutcomeReward",
    ),
    "features": (
        lambda: model(LinearReward(np.ones((2, 4)), np.ones(4))),
        r"features has shape \[2, 4\].*S = 3.*\[S, F\]",
    ),
    "flat features": (lambda: LinearReward([1.0], [1.0]), r"features has shape \[1\].*\[S, F\]"),
    "weights": (lambda: LinearReward(np.ones((3, 4)), np.ones(3)), r"weights has shape \[3\].*F = 4.*\[F\]"),
    "scale": (lambda: StepCost(1.0) * torch.ones(3), r"\[3\].*one number"),
    "cost": (lambda: model(StepCost(torch.ones(3))), r"StepCost.*shape.*3.*"),
    "goal without a state": (lambda: model(Goal([])), r"Goal has no state \(\[\]\).*name at least one"),
    "goal of an empty mask": (lambda: model(Goal(torch.zeros(3, dtype=torch.bool))), r"Goal has no state"),
    "waypoint without a state": (lambda: model(Waypoint([], 1)), r"Waypoint has no state"),
    "goal value": (lambda: model(Goal([2], torch.ones(3))), r"Goal.*\[3\]|\[3\].*Goal"),
    "function": (
        lambda: model(lambda s, a, n, t: torch.zeros(5)),
        r"<lambda> returned shape \[5\].*broadcasts to \[3, 2, 3\]",
    ),
    "function too large": (
        lambda: model(lambda s, a, n, t: torch.zeros(4, 3, 2, 3)),
        r"returned shape \[4, 3, 2, 3\].*broadcasts to \[3, 2, 3\]",
    ),
    "own factor": (lambda: model(Returns(torch.zeros(5))), r"Returns returned shape \[5\].*\[3, 2, 3\]"),
    "own factor in a sum": (
        lambda: model(StepCost(1.0) + Returns(torch.zeros(5))),
        r"Returns returned shape \[5\].*\[3, 2, 3\]",
    ),
}


@refuse(REWARD_SHAPES)
def test_reward_shapes(build, error, pattern):
    check(build, error, pattern)


def branches(state, action, next_state, t):
    return 1.0 if state == 0 else 0.0


def and_branches(state, action, next_state, t):
    return 1.0 * (state == 0 and action == 1)


def takes_two(state, action):
    return torch.zeros(())


REWARD_TYPES = {
    "None": (lambda: model(None), TypeError, r"reward of type NoneType.*table, function or factor"),
    "text": (lambda: model("goal"), TypeError, r"reward of type str.*table, function or factor"),
    "dict": (lambda: model({0: 1.0}), TypeError, r"reward.*(dict|object).*(table|numbers)"),
    "complex": (lambda: model(np.zeros(3, dtype=complex)), TypeError, r"reward.*complex128.*real"),
    "strings": (lambda: model(["a", "b", "c"]), TypeError, r"reward.*<U.*real numbers"),
    "function returns None": (
        lambda: model(lambda s, a, n, t: None),
        TypeError,
        r"<lambda> returned NoneType.*tensor or number",
    ),
    "function returns text": (lambda: model(lambda s, a, n, t: "1"), TypeError, r"returned str.*tensor or number"),
    "function returns complex": (lambda: model(lambda s, a, n, t: s * 1j), TypeError, r"<lambda>.*complex.*real"),
    "function branches": (lambda: model(branches), r"branches.*'if'.*torch\.where"),
    "function says and": (lambda: model(and_branches), r"and_branches.*'and'.*torch\.where.*&"),
    "function converts": (
        lambda: model(lambda s, a, n, t: float(s)),
        (TypeError, ValueError),
        r"<lambda>.*torch\.where",
    ),
    "function uses math": (lambda: model(lambda s, a, n, t: math.exp(s)), (TypeError, ValueError), r"<lambda>.*tensor"),
    "function indexes a list": (
        lambda: model(lambda s, a, n, t: [1.0, 2.0, 0.0][s]),
        (TypeError, ValueError),
        r"<lambda>.*tensor",
    ),
    "function takes two": (
        lambda: model(takes_two),
        (TypeError, ValueError),
        r"takes_two.*state, action, next_state, t\b",
    ),
    "own factor returns None": (lambda: model(Returns(None)), TypeError, r"Returns returned NoneType.*tensor"),
    "own factor returns an array": (
        lambda: model(Returns(np.zeros(3))),
        TypeError,
        r"Returns returned ndarray.*tensor",
    ),
    "own factor returns bool": (
        lambda: model(Returns(torch.ones(1, dtype=torch.bool))),
        TypeError,
        r"Returns returned torch.bool.*numbers",
    ),
    "own factor in a sum": (
        lambda: model(Returns(None) + StepCost(1.0)),
        TypeError,
        r"Returns returned NoneType.*tensor",
    ),
    "own factor without evaluate": (
        lambda: model(Undefined()),
        NotImplementedError,
        r"Undefined.*evaluate\(mdp, step\)",
    ),
    "factor times factor": (lambda: StepCost(1.0) * StepCost(1.0), TypeError, r"scaled by numbers.*at\(states"),
    "factor times text": (lambda: StepCost(1.0) * "2", TypeError, r"scale.*(str|'2').*number"),
    "factor plus text": (lambda: StepCost(1.0) + "2", TypeError, r"reward of type str.*table, function or factor"),
    "at times by half": (lambda: StepCost(1.0).at(times=[1.5]), (TypeError, ValueError), r"times.*1\.5.*whole"),
    "at a lone time": (lambda: StepCost(1.0).at(times=1), TypeError, r"times.*1.*\[1\]|times.*sequence|times.*list"),
    "at a negative time": (lambda: StepCost(1.0).at(times=[-1]), r"times.*-1.*from 0"),
    "at states": (lambda: model(StepCost(1.0).at(states=[5])), r"state 5 does not exist.*0 to 2"),
    "goal": (lambda: model(Goal(["end"])), r"'end'.*no state names"),
    "process": (lambda: TrajectoryModel(np.array(TABLE), -1.0), TypeError, r"process is a ndarray.*wrap.*MDP"),
}


@refuse(REWARD_TYPES)
def test_reward_types(build, error, pattern):
    check(build, error, pattern)
