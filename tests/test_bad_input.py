"""Bad input is refused with what was got, what was expected and what to do next, and no NaN ever leaves."""

import dataclasses
import json
import math
from collections.abc import Mapping

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from safetensors.torch import save_file

from cai.comparison import compare
from cai.evaluation import evaluate
from cai.inference import InferenceError, Status, SumProduct, available_backends, infer
from cai.models import (
    MDP,
    CallableReward,
    Goal,
    GridLayout,
    LinearReward,
    OutcomeReward,
    RewardFactor,
    StepCost,
    TableReward,
    TrajectoryModel,
)
from cai.policy import Policy, extract_policy

INF, NAN = math.inf, math.nan
S, A = 3, 2
TABLE = [[[1.0, 0.0, 0.0], [0.2, 0.8, 0.0]], [[1.0, 0.0, 0.0], [0.0, 0.3, 0.7]], [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]]
NEXT = [[[0, 1], [0, 1]], [[0, 1], [1, 2]], [[2, 2], [2, 2]]]
WEIGHTS = [[[1.0, 0.0], [0.2, 0.8]], [[1.0, 0.0], [0.3, 0.7]], [[1.0, 0.0], [1.0, 0.0]]]
START = [1.0, 0.0, 0.0]


def changed(table, *places):
    """A copy of a table with some entries changed: (index, value) each."""
    result = np.array(table, dtype=np.float64)
    for index, value in places:
        result[index] = value
    return result


def mdp(transitions=TABLE, initial=START, **options):
    return MDP(transitions, initial, **options)


def listed(next_states=NEXT, probabilities=WEIGHTS, initial=START, **options):
    return MDP.from_successors(next_states, probabilities, initial, **options)


def model(reward=-1.0, process=None, **options):
    """Walk from state 0 to the terminal state 2."""
    return TrajectoryModel(process or mdp(terminal=[2]), reward, **{"horizon": 3, **options})


def refuse(cases):
    """Parametrises over {id: (build, pattern)}, or (build, error, pattern) where the error is no ValueError."""
    values = [case if len(case) == 3 else (case[0], ValueError, case[1]) for case in cases.values()]
    return pytest.mark.parametrize(("build", "error", "pattern"), values, ids=list(cases))


def check(build, error, pattern):
    with pytest.raises(error, match=pattern):
        build()


# ---- processes ---------------------------------------------------------------------------------------------------

LAYOUT = GridLayout(1, 3, ((0, 0), (0, 1), (0, 2)), ((0, -1), (0, 1)))

PROBABILITIES = {
    "row above 1": (lambda: mdp(changed(TABLE, ((0, 1, 1), 0.9))), r"transitions\[0, 1\].*1\.1\b.*divide"),
    "row below 1": (lambda: mdp(changed(TABLE, ((1, 1, 2), 0.6))), r"transitions\[1, 1\].*0\.9\b.*divide"),
    "row of zeros": (lambda: mdp(changed(TABLE, ((1, 0), 0.0))), r"transitions\[1, 0\].*sums to 0,.*not to 1"),
    "row just off": (lambda: mdp(changed(TABLE, ((0, 1, 1), 0.8 + 1e-7))), r"sums to 1\.0000001,.*divide"),
    "listed row": (lambda: listed(probabilities=changed(WEIGHTS, ((0, 1, 1), 0.9))), r"probabilities\[0, 1\].*1\.1\b"),
    "negative entry": (
        lambda: mdp(changed(TABLE, ((0, 1), [-0.25, 1.25, 0.0]))),
        r"transitions\[0, 1, 0\].*negative.*-0\.25",
    ),
    "listed negative": (
        lambda: listed(probabilities=changed(WEIGHTS, ((1, 1), [1.5, -0.5]))),
        r"probabilities\[1, 1, 1\].*-0\.5",
    ),
    "nan": (lambda: mdp(changed(TABLE, ((0, 1, 2), NAN))), r"transitions\[0, 1, 2\].*not finite.*0 to 1"),
    "inf": (lambda: mdp(changed(TABLE, ((2, 0, 2), INF))), r"transitions\[2, 0, 2\].*not finite.*0 to 1"),
    "-inf": (lambda: mdp(changed(TABLE, ((2, 0, 2), -INF))), r"transitions\[2, 0, 2\].*not finite"),
    "listed nan": (
        lambda: listed(probabilities=changed(WEIGHTS, ((1, 0, 0), NAN))),
        r"probabilities\[1, 0, 0\].*not finite",
    ),
    "initial sum": (lambda: mdp(initial=[0.5, 0.25, 0.0]), r"initial.*0\.75.*not to 1"),
    "initial negative": (lambda: mdp(initial=[1.5, -0.5, 0.0]), r"initial\[1\].*negative.*-0\.5"),
    "initial nan": (lambda: mdp(initial=[1.0, 0.0, NAN]), r"initial\[2\].*not finite"),
    "initial inf": (lambda: mdp(initial=[INF, 0.0, 0.0]), r"initial\[0\].*not finite"),
    "unavailable negative": (
        lambda: mdp(changed(TABLE, ((0, 1, 0), -1.0)), available=[[True, False], [True, True], [True, True]]),
        r"transitions\[0, 1, 0\].*negative",
    ),
}


@refuse(PROBABILITIES)
def test_probabilities(build, error, pattern):
    check(build, error, pattern)


SHAPES = {
    "transitions [S, S]": (lambda: mdp(np.eye(3)), r"transitions has shape \[3, 3\].*\[S, A, S\]"),
    "transitions [A, S, S]": (
        lambda: mdp(np.moveaxis(np.array(TABLE), 1, 0)),
        r"transitions has shape \[2, 3, 3\].*\[S, A, S\]",
    ),
    "transitions empty": (lambda: mdp(np.zeros((0, 0, 0))), r"transitions has shape \[0, 0, 0\].*at least one"),
    "no action": (lambda: mdp(np.zeros((3, 0, 3))), r"transitions has shape \[3, 0, 3\].*at least one"),
    "transitions ragged": (lambda: mdp([[[1.0], [0.5, 0.5]]]), r"transitions.*ragged.*equal length"),
    "transitions None": (lambda: mdp(None), r"transitions is None.*\[S, A, S\].*from_successors"),
    "initial [2]": (lambda: mdp(initial=[0.5, 0.5]), r"initial has shape \[2\].*\[S\] = \[3\]"),
    "initial [S, 1]": (lambda: mdp(initial=[[1.0], [0.0], [0.0]]), r"initial has shape \[3, 1\].*\[S\] = \[3\]"),
    "initial number": (lambda: mdp(initial=0), r"initial has shape \[\].*\[S\] = \[3\]"),
    "available [S]": (lambda: mdp(available=[True, True, True]), r"available has shape \[3\].*\[S, A\] = \[3, 2\]"),
    "available ragged": (
        lambda: mdp(available=[[True, True], [True], [True, True]]),
        r"available.*ragged.*equal length",
    ),
    "terminal mask": (lambda: mdp(terminal=np.array([False, True])), r"terminal has shape \[2\].*\[S\] = \[3\]"),
    "terminal mask list": (lambda: mdp(terminal=[False, True]), r"terminal has shape \[2\].*\[S\] = \[3\]"),
    "region mask": (lambda: mdp(regions={"exit": [True]}), r"region 'exit'.*\[1\].*\[S\] = \[3\]"),
    "state names": (lambda: mdp(state_names=["a", "b"]), r"state_names.*2.*expected 3"),
    "equal state names": (lambda: mdp(state_names=["a", "b", "b"]), r"state_names.*2 different.*3"),
    "action names": (lambda: mdp(action_names=["a", "b", "c"]), r"action_names.*3.*expected 2"),
    "equal action names": (lambda: mdp(action_names=["a", "a"]), r"action_names.*1 different.*2"),
    "layout cells": (lambda: mdp(layout=GridLayout(1, 2, ((0, 0), (0, 1)), ())), r"layout places 2 states.*3"),
    "layout arrows": (
        lambda: mdp(layout=dataclasses.replace(LAYOUT, arrows=((0, 1),))),
        r"layout.*1 .*(arrow|action).*2",
    ),
    "layout outside": (
        lambda: dataclasses.replace(LAYOUT, cells=((0, 0), (0, 1), (0, 3))),
        r"state 2.*\(0, 3\).*1 x 3",
    ),
    "layout labels": (lambda: dataclasses.replace(LAYOUT, labels=("a", "b")), r"2 labels.*3 states"),
    "lists [S, K]": (
        lambda: listed(np.array(NEXT)[:, 0], np.array(WEIGHTS)[:, 0]),
        r"next_states has shape \[3, 2\].*\[S, A, K\]",
    ),
    "flat lists": (lambda: listed([1, 2, 2], [1.0, 1.0, 1.0]), (TypeError, ValueError), r"next_states.*\[S, A, K\]"),
    "lists differ": (
        lambda: listed(np.array(NEXT), np.array(WEIGHTS)[..., :1]),
        r"probabilities has shape \[3, 2, 1\].*3, 2, 2",
    ),
    "ragged lists differ": (
        lambda: listed([[[0], [0, 1]]], [[[1.0], [1.0]]], [1.0]),
        r"next_states and probabilities.*same lengths",
    ),
    "too few action lists": (
        lambda: listed([[[0], [0]], [[1]]], [[[1.0], [1.0]], [[1.0]]], [1.0, 0.0]),
        r"different numbers of action",
    ),
    "no outcome": (lambda: listed([[[]]], [[[]]], [1.0]), r"(shape \[1, 1, 0\]|no outcome|at least one)"),
    "listed initial": (lambda: listed(initial=[1.0]), r"initial has shape \[1\].*\[S\] = \[3\]"),
}


@refuse(SHAPES)
def test_shapes(build, error, pattern):
    check(build, error, pattern)


DTYPES = {
    "complex array": (lambda: mdp(np.array(TABLE, dtype=complex)), TypeError, r"transitions.*complex128.*real"),
    "complex tensor": (lambda: mdp(torch.tensor(TABLE).cfloat()), TypeError, r"transitions.*complex64.*real part"),
    "strings": (lambda: mdp(np.array(TABLE).astype(str)), TypeError, r"transitions.*<U.*real numbers"),
    "objects": (lambda: mdp([[[None]]], [1.0]), TypeError, r"transitions.*object.*real numbers"),
    "initial strings": (lambda: mdp(initial=["a", "b", "c"]), TypeError, r"initial.*<U.*real numbers"),
    "initial complex": (lambda: mdp(initial=[1j, 0, 0]), TypeError, r"initial.*complex128.*real"),
    "initial None": (lambda: mdp(initial=None), TypeError, r"initial.*real numbers"),
    "float next states": (lambda: listed(np.array(NEXT) * 1.0), TypeError, r"next_states.*float64.*whole.*convert"),
    "float lists": (lambda: listed([[[0.0]]], [[[1.0]]], [1.0]), TypeError, r"next_states.*float64.*whole"),
    "bool next states": (lambda: listed(torch.tensor(NEXT) > 0), TypeError, r"next_states.*bool.*whole"),
    "next states by name": (lambda: listed([[["a"]]], [[[1.0]]], [1.0]), TypeError, r"next_states.*whole numbers"),
    "complex weights": (
        lambda: listed(probabilities=np.array(WEIGHTS) * 1j),
        TypeError,
        r"probabilities.*complex.*real",
    ),
    "available ints": (lambda: mdp(available=[[1, 1], [1, 0], [1, 1]]), TypeError, r"available.*int64.*bool \[S, A\]"),
    "available floats": (lambda: mdp(available=np.ones((3, 2))), TypeError, r"available.*float64.*bool \[S, A\]"),
    "available strings": (lambda: mdp(available=[["y", "n"]] * 3), TypeError, r"available.*bool \[S, A\]"),
    "terminal mask of ints": (lambda: mdp(terminal=[0, 0, 1]), (TypeError, ValueError), r"terminal.*(bool|mask|twice)"),
    "region mask of ints": (
        lambda: mdp(regions={"exit": [0, 0, 1]}),
        (TypeError, ValueError),
        r"region 'exit'.*(bool|mask|twice)",
    ),
    "terminal float": (lambda: mdp(terminal=[1.5]), TypeError, r"terminal.*1\.5.*indices, names or a mask"),
    "terminal lone float": (lambda: mdp(terminal=1.5), TypeError, r"terminal.*1\.5.*indices, names or a mask"),
    "terminal None": (lambda: mdp(terminal=[None]), TypeError, r"terminal.*None.*indices, names or a mask"),
    "terminal nan": (lambda: mdp(terminal=[NAN]), (TypeError, ValueError), r"terminal.*nan.*indices, names or a mask"),
    "names number": (lambda: mdp(state_names=3), TypeError, r"state_names.*3"),
}


@refuse(DTYPES)
def test_dtypes(build, error, pattern):
    check(build, error, pattern)


STATES = {
    "next state too large": (
        lambda: listed(np.where(np.array(NEXT) == 2, 3, NEXT)),
        r"next_states\[1, 1, 1\] is 3.*0 to 2.*pad",
    ),
    "next state negative": (
        lambda: listed(np.where(np.array(NEXT) == 2, -1, NEXT)),
        r"next_states\[1, 1, 1\] is -1.*0 to 2",
    ),
    "terminal index": (lambda: mdp(terminal=[3]), r"terminal.*state 3 does not exist.*0 to 2"),
    "terminal negative": (lambda: mdp(terminal=[-1]), r"terminal.*state -1 does not exist.*0 to 2"),
    "terminal name": (lambda: mdp(terminal="end", state_names=["a", "b", "c"]), r"terminal.*'end'.*names are a, b, c"),
    "terminal name without names": (lambda: mdp(terminal="end"), r"terminal.*'end'.*no state names"),
    "region": (lambda: mdp(regions={"exit": [7]}), r"region 'exit'.*state 7.*0 to 2"),
    "asked": (lambda: mdp().states(9), r"state 9 does not exist.*0 to 2"),
    "no action left": (
        lambda: mdp(available=[[True, True], [False, False], [True, True]]),
        r"available.*state 1.*at least one",
    ),
    "terminal left": (
        lambda: mdp(terminal=[1]),
        r"terminal state 1 can be left.*probability up to 1\b.*lead to itself",
    ),
    "named terminal left": (
        lambda: mdp(terminal=["b"], state_names=["a", "b", "c"]),
        r"terminal state b can be left.*itself",
    ),
    "terminal left by a list": (
        lambda: listed(
            changed(NEXT, ((2, 1, 1), 0)).astype(int), changed(WEIGHTS, ((2, 1), [0.75, 0.25])), terminal=[2]
        ),
        r"terminal state 2 can be left.*0\.25.*lead to itself",
    ),
}


@refuse(STATES)
def test_states(build, error, pattern):
    check(build, error, pattern)


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
    "function returns an array": (
        lambda: model(lambda s, a, n, t: np.zeros(3)),
        TypeError,
        r"returned ndarray.*tensor or number",
    ),
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
    "optimality": (lambda: model(optimality="hard"), r"optimality is 'hard'.*'factor'.*'bernoulli'"),
    "infinite without end": (
        lambda: model(process=mdp(), horizon=INF),
        r"infinite horizon cannot converge.*discount 1.*no terminal.*discount < 1.*finite horizon",
    ),
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


def partly():
    return mdp(available=[[True, True], [False, True], [True, True]], terminal=[2])


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


# ---- no NaN ------------------------------------------------------------------------------------------------------


def no_nan(value, where):
    """Looks into everything that an answer holds."""
    if isinstance(value, torch.Tensor):
        assert not value.isnan().any(), where
    elif isinstance(value, float):
        assert not math.isnan(value), where
    elif isinstance(value, Mapping):
        for key, part in value.items():
            no_nan(part, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for part in value:
            no_nan(part, where)


def holds_no_nan(posterior):
    for field in dataclasses.fields(posterior):
        no_nan(getattr(posterior, field.name), field.name)
    for t in range(posterior.action_probs.shape[0]):
        no_nan(posterior.dynamics(t), "dynamics")
        if posterior.step_luck is not None:
            no_nan(posterior.luck_map(t), "luck_map")
    dataset = posterior.to_xarray()
    no_nan(dict(dataset.attrs), "to_xarray attributes")
    for name in dataset.data_vars:
        assert not np.isnan(dataset[name].values).any(), name


# ---- p(O) = 0 ----------------------------------------------------------------------------------------------------

PRIOR = [0.25, 0.75]
EVERY_BACKEND = [(name, {}) for name in available_backends()]
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
        assert float(posterior.values[-1, 1]) == pytest.approx(-1.0, abs=1e-12)


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


def test_fixed_dynamics_diverge_without_costs():
    posterior = infer(model(0.0, horizon=INF), "variational", throw=False)
    assert posterior.status is Status.DIVERGED
    assert posterior.elbo is None
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


@pytest.mark.parametrize(("backend", "limit"), [("exact", "max_steps"), ("variational", "max_backups")])
def test_too_few_backups_are_a_status(backend, limit):
    problem = model(process=mdp(), horizon=INF, discount=0.99)
    posterior = infer(problem, backend, throw=False, **{limit: 3})
    assert posterior.status is Status.NOT_CONVERGED
    holds_no_nan(posterior)
    with pytest.raises(InferenceError, match=r"not converged.*max_steps"):
        infer(problem, backend, **{limit: 3})


@pytest.mark.parametrize(("backend", "limit"), [("exact", "max_steps"), ("variational", "max_backups")])
def test_a_terminal_state_out_of_reach_is_a_status(backend, limit):
    process = mdp(changed(TABLE, ((1, 1), [0.0, 1.0, 0.0])), terminal=[2])
    posterior = infer(model(process=process, horizon=INF), backend, throw=False, **{limit: 1000})
    assert posterior.status in (Status.IMPOSSIBLE, Status.DIVERGED)
    holds_no_nan(posterior)


# ---- backends ----------------------------------------------------------------------------------------------------

BACKENDS = {
    "unknown": (lambda: infer(model(), "magic"), r"'magic'.*known are exact, variational"),
    "unknown option": (
        lambda: infer(model(), "exact", steps=3),
        r"'exact'.*'steps'.*options are: tolerance, max_steps$",
    ),
    "option of none": (lambda: infer(model(), "enumeration", steps=3), r"'enumeration'.*'steps'.*options are: none$"),
    "class": (lambda: infer(model(), SumProduct), TypeError, r"SumProduct is a class.*SumProduct\(\.\.\.\)"),
    "no backend": (lambda: infer(model(), 3), TypeError, r"int is no backend.*supports and run"),
    "None": (lambda: infer(model(), None), TypeError, r"NoneType is no backend"),
    "options of an instance": (
        lambda: infer(model(), SumProduct(), tolerance=1.0),
        r"tolerance.*instance of SumProduct",
    ),
    "solver": (lambda: infer(model(), "variational", solver="adam"), r"solver is 'adam'.*closed-form, svi"),
    "steps": (lambda: infer(model(), "variational", max_steps=0), r"max_steps is 0.*>= 1"),
    "rate": (lambda: infer(model(), "optimistic", learning_rate=2.0), r"learning_rate is 2.*\(0, 1\]"),
    "nan rate": (lambda: infer(model(), "optimistic", learning_rate=NAN), r"learning_rate is nan.*\(0, 1\]"),
    "tolerance": (lambda: infer(model(), "variational", tolerance=0.0), r"tolerance is 0.*> 0"),
    "nan tolerance": (lambda: infer(model(), "variational", tolerance=NAN), r"tolerance is nan.*> 0"),
    "exact steps": (lambda: infer(model(), "exact", max_steps=0), r"max_steps is 0.*>= 1"),
    "exact tolerance": (lambda: infer(model(), "exact", tolerance=-1.0), r"tolerance is -1.*> 0"),
    "exact nan tolerance": (lambda: infer(model(), "exact", tolerance=NAN), r"tolerance is nan.*> 0"),
    "compare one": (lambda: compare(model(), "exact"), TypeError, r"backends is 'exact'.*list.*\['exact'"),
    "compare none": (lambda: compare(model(), []), r"backends is empty.*'exact'"),
    "compare unknown": (lambda: compare(model(), ["exact", "magic"]), r"'magic'.*known are"),
    "compare class": (lambda: compare(model(), [SumProduct]), TypeError, r"SumProduct is a class"),
    "time": (lambda: infer(model(), "exact").dynamics(3), IndexError, r"time index 3.*0 to 2"),
    "samples": (lambda: infer(model(), "exact").sample(0), r"num_samples is 0.*at least 1"),
}


@refuse(BACKENDS)
def test_backends(build, error, pattern):
    check(build, error, pattern)


# ---- programs ----------------------------------------------------------------------------------------------------


def coin(name, **options):
    return pyro.sample(name, dist.Categorical(torch.ones(2).double()), **options)


def program(*names, factor=True):
    """A program that draws these sites and nothing else."""

    def run():
        for name in names:
            coin(name)
        if factor:
            pyro.factor("O_1", torch.zeros(()).double())

    return run


def with_plate():
    with pyro.plate("samples", 5):
        coin("s_1")
        coin("a_1")
        pyro.factor("O_1", torch.zeros(5).double())


def with_observed_state():
    coin("s_1", obs=torch.tensor(0))
    coin("a_1")
    pyro.factor("O_1", torch.zeros(()).double())


def with_observed_action():
    coin("s_1")
    coin("a_1", obs=torch.tensor(0))
    pyro.factor("O_1", torch.zeros(()).double())


def with_continuous_latent():
    coin("s_1")
    coin("a_1")
    pyro.factor("O_1", -(pyro.sample("wind", dist.Normal(0.0, 1.0)) ** 2))


def with_continuous_state():
    pyro.sample("s_1", dist.Normal(0.0, 1.0))
    coin("a_1")
    pyro.factor("O_1", torch.zeros(()).double())


def with_growing_states():
    coin("s_1")
    coin("a_1")
    pyro.sample("s_2", dist.Categorical(torch.ones(3).double()))
    coin("a_2")
    pyro.factor("O_1", torch.zeros(()).double())


PROGRAMS = {
    "no a_1": (program("s_1", "x"), r"no site called a_1.*latents are: s_1, x.*s_1, a_1, O_1"),
    "no latent": (program(), r"no site called a_1.*none.*s_1, a_1, O_1"),
    "from 0": (program("s_0", "a_0"), r"no site called a_1.*s_0, a_0.*s_1, a_1, O_1"),
    "no s_1": (program("a_1"), r"a_1 but no site called s_1.*every step"),
    "no s_2": (program("s_1", "a_1", "a_2"), r"a_2 but no site called s_2.*every step"),
    "no a_2": (program("s_1", "a_1", "s_2", "s_3", "a_3"), r"a_3 but no site called a_2.*every step"),
    "too many states": (program("s_1", "a_1", "s_2", "s_3"), r"s_3 but no a_2.*one step past"),
    "no factor": (program("s_1", "a_1", factor=False), r"no observed or factor site.*pyro\.factor"),
    "plate": (with_plate, r"'s_1'.*pyro\.plate.*drop the plate"),
    "observed state": (with_observed_state, r"'s_1' is observed.*latent.*without obs="),
    "observed action": (with_observed_action, r"'a_1' is observed.*latent.*without obs="),
    "continuous latent": (with_continuous_latent, r"'wind' is continuous.*discrete.*sampling"),
    "continuous state": (with_continuous_state, r"'s_1' is continuous.*discrete.*sampling"),
    "growing states": (with_growing_states, r"number of states changes.*s_1: 2, s_2: 3.*the same"),
    "no function": (3, TypeError, r"TrajectoryModel or a Pyro program.*got int"),
    "an MDP": (mdp(), TypeError, r"TrajectoryModel or a Pyro program.*got MDP"),
}


@pytest.mark.parametrize(
    ("backend", "solver"), [("enumeration", {}), ("variational", {}), ("optimistic", {"solver": "svi"})]
)
@refuse(PROGRAMS)
def test_programs(backend, solver, build, error, pattern):
    check(lambda: infer(build, backend, **solver), error, pattern)


@pytest.mark.parametrize("backend", ["enumeration", "variational", "optimistic"])
def test_program_with_arguments(backend):
    with pytest.raises((TypeError, ValueError), match=r"no arguments"):
        infer(lambda data: None, backend)


def test_exact_names_enumeration_for_a_program():
    with pytest.raises(ValueError, match=r"'exact'.*TrajectoryModel.*Pyro program.*'enumeration'"):
        infer(program("s_1", "a_1"), "exact")


def test_exact_does_not_take_an_mdp():
    with pytest.raises(ValueError, match=r"'exact'.*TrajectoryModel.*MDP"):
        infer(mdp(), "exact")


@pytest.mark.parametrize("backend", ["variational", "optimistic"])
def test_closed_form_names_svi_for_a_program(backend):
    with pytest.raises(ValueError, match=rf"'{backend}'.*closed form.*TrajectoryModel.*solver='svi'"):
        infer(program("s_1", "a_1"), backend, solver="closed-form")


def test_refused_models_are_rows_in_a_table():
    row = compare(program("s_1", "a_1"), ["exact"]).rows[0]
    assert row.status is Status.UNSUPPORTED
    assert "'enumeration'" in row.detail
    assert row.log_evidence is row.elbo is row.posterior is None


# ---- policies ----------------------------------------------------------------------------------------------------

UNIFORM = np.full((3, S, A), 0.5)


POLICIES = {
    "sum": (lambda: Policy(changed(UNIFORM, ((1, 2, 0), 0.6))), r"action_probs\[1, 2\].*1\.1\b.*divide"),
    "negative": (lambda: Policy([[1.5, -0.5]]), r"action_probs\[0, 0, 1\].*negative.*-0\.5"),
    "nan": (lambda: Policy([[NAN, 1.0]]), r"action_probs\[0, 0, 0\].*not finite"),
    "inf": (lambda: Policy([[INF, 1.0]]), r"action_probs\[0, 0, 0\].*not finite"),
    "[A]": (lambda: Policy([0.5, 0.5]), r"action_probs has shape \[2\].*\[T, S, A\] or \[S, A\]"),
    "[1, T, S, A]": (lambda: Policy(UNIFORM[None]), r"action_probs has shape \[1, 3, 3, 2\].*\[T, S, A\]"),
    "empty": (lambda: Policy(np.zeros((0, 3, 2))), r"action_probs has shape \[0, 3, 2\].*\[T, S, A\]"),
    "text": (lambda: Policy("greedy"), TypeError, r"action_probs.*<U6.*real numbers"),
    "complex": (lambda: Policy(UNIFORM * 1j), TypeError, r"action_probs.*complex128.*real"),
    "None": (lambda: Policy(None), TypeError, r"action_probs.*real numbers"),
    "ragged": (lambda: Policy([[1.0], [0.5, 0.5]]), r"action_probs.*ragged.*equal length"),
    "stationary tables": (lambda: Policy(UNIFORM, stationary=True), r"stationary.*one table.*3"),
    "state names": (lambda: Policy(UNIFORM, state_names=("a",)), r"state_names holds 1.*3"),
    "action names": (lambda: Policy(UNIFORM, action_names=("a", "b", "c")), r"action_names holds 3.*2"),
    "time": (lambda: Policy(UNIFORM).probs(0, 3), r"time index 3.*0 to 2.*longer horizon.*math\.inf"),
    "sampled time": (lambda: Policy(UNIFORM).sample(0, 99), r"time index 99.*0 to 2.*longer horizon"),
    "greedy time": (lambda: Policy(UNIFORM).greedy(0, -1), r"time index -1.*0 to 2"),
    "state": (lambda: Policy(UNIFORM).probs(3), r"state 3 does not exist.*0 to 2"),
    "negative state": (lambda: Policy(UNIFORM).greedy(-1), r"state -1 does not exist.*0 to 2"),
    "kind": (lambda: extract_policy(infer(model(), "exact"), "best"), r"kind is 'best'.*'stochastic' or 'greedy'"),
}


@refuse(POLICIES)
def test_policies(build, error, pattern):
    check(build, error, pattern)


FILES = {
    "text": lambda path: path.write_text("not a policy"),
    "empty": lambda path: path.write_bytes(b""),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "another table": lambda path: save_file({"weights": torch.ones(2)}, str(path)),
    "another format": lambda path: save_file({"action_probs": torch.ones(2)}, str(path), metadata={"format": "x"}),
    "no table": lambda path: save_file({"weights": torch.ones(2)}, str(path), metadata={"format": "cai-policy-1"}),
    "no header": lambda path: save_file(
        {"action_probs": torch.full((1, 2, 2), 0.5)}, str(path), metadata={"format": "cai-policy-1"}
    ),
    "bad header": lambda path: save_file(
        {"action_probs": torch.full((1, 2, 2), 0.5)},
        str(path),
        metadata=dict.fromkeys(("stationary", "state_names", "action_names", "source", "metadata"), "{")
        | {"format": "cai-policy-1"},
    ),
}


@pytest.mark.parametrize("write", list(FILES.values()), ids=list(FILES))
def test_a_file_that_is_no_policy(write, tmp_path):
    path = tmp_path / "policy.safetensors"
    write(path)
    with pytest.raises(ValueError, match=r"policy\.safetensors.*Policy\.save"):
        Policy.load(path)


def test_a_file_that_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file.*missing\.safetensors.*policy"):
        Policy.load(tmp_path / "missing.safetensors")


def test_a_folder_is_no_policy(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match=r"policy"):
        Policy.load(tmp_path)


# ---- the true world ----------------------------------------------------------------------------------------------


def evaluated(table=UNIFORM, problem=None, **options):
    policy = table if isinstance(table, str) else Policy(table)
    return evaluate(policy, problem or model(), **{"num_rollouts": 10, **options})


EVALUATIONS = {
    "states": (lambda: evaluated(np.full((3, 4, 2), 0.5)), r"policy is for 4 states and 2 actions.*model has 3 and 2"),
    "actions": (lambda: evaluated(np.full((3, 3, 1), 1.0)), r"3 states and 1 actions.*model has 3 and 2"),
    "short": (lambda: evaluated(UNIFORM[:2]), r"knows 2 steps.*has 3.*longer horizon"),
    "unavailable": (
        lambda: evaluated(problem=model(process=partly())),
        r"takes action 0 in state 1 at time index 0.*not available",
    ),
    "unavailable later": (
        lambda: evaluated(changed(UNIFORM, ((slice(0, 2), 1), [0.0, 1.0])), model(process=partly())),
        r"takes action 0 in state 1 at time index 2.*not available",
    ),
    "unavailable by name": (
        lambda: evaluated(
            problem=model(
                process=mdp(
                    available=[[True, True], [False, True], [True, True]],
                    state_names=["a", "b", "c"],
                    action_names=["stay", "go"],
                )
            )
        ),
        r"takes action stay in state b.*not available",
    ),
    "finite for an infinite horizon": (
        lambda: evaluated(problem=model(horizon=INF, discount=0.9)),
        r"infinite.*finitely many.*stationary policy",
    ),
    "no policy": (lambda: evaluated("exact"), TypeError, r"expected a Policy, got str.*extract_policy"),
    "no model": (lambda: evaluate(Policy(UNIFORM), mdp()), TypeError, r"TrajectoryModel.*got MDP"),
    "rollouts": (lambda: evaluated(num_rollouts=1), r"num_rollouts is 1.*at least 2"),
    "tail 0": (lambda: evaluated(tail=0.0), r"tail is 0.*\(0, 1\]"),
    "tail nan": (lambda: evaluated(tail=NAN), r"tail is nan.*\(0, 1\]"),
    "region": (lambda: evaluated(regions={"exit": [9]}), r"state 9 does not exist.*0 to 2"),
}


@refuse(EVALUATIONS)
def test_evaluations(build, error, pattern):
    check(build, error, pattern)


# ---- the valid neighbours of what is refused ---------------------------------------------------------------------


def test_the_problems_of_this_file_are_valid():
    for problem in (model(), model(process=listed(terminal=[2])), model(horizon=INF, discount=0.9), model(horizon=INF)):
        assert infer(problem, "exact").status is Status.SUCCESS
    assert evaluated().expected_return < 0


@pytest.mark.parametrize(
    "options",
    [{"horizon": 1}, {"horizon": np.int64(3)}, {"temperature": 1e-3}, {"discount": 1}, {"discount": np.float64(0.5)}],
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
