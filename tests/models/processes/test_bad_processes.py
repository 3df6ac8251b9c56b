"""Bad processes are refused with what was got, what was expected and what to do next."""

import dataclasses

import numpy as np
import torch
from refusals import (
    INF,
    NAN,
    NEXT,
    TABLE,
    WEIGHTS,
    changed,
    check,
    listed,
    mdp,
    refuse,
)

from cai.models import (
    MDP,
    GridLayout,
)

# ---- processes ---------------------------------------------------------------------------------------------------

LAYOUT = GridLayout(1, 3, ((0, 0), (0, 1), (0, 2)), ((0, -1), (0, 1)))

PROBABILITIES = {
    "row above 1": (lambda: mdp(changed(TABLE, ((0, 1, 1), 0.9))), r"transitions\[0, 1\].*1\.1\b.*divide"),
    "row below 1": (lambda: mdp(changed(TABLE, ((1, 1, 2), 0.6))), r"transitions\[1, 1\].*0\.9\b.*divide"),
    "row of zeros": (lambda: mdp(changed(TABLE, ((1, 0), 0.0))), r"transitions\[1, 0\].*sums to 0,.*not to 1"),
    "nothing follows": (
        lambda: mdp(changed(TABLE, ((2, 0), 0.0)), state_names=["a", "b", "exit"]),
        r"transitions\[2, 0\].*terminal=\[\.\.\., 'exit'\].*available",
    ),
    "no lists, not terminal": (
        lambda: MDP.from_successors([[[1], [1]], []], [[[1.0], [1.0]], []], 0),
        r"probabilities\[1, 0\].*say terminal=",
    ),
    "rounded": (lambda: mdp(changed(TABLE, ((0, 1, 1), 0.79996))), r"0\.99996.*divide.*normalize=True"),
    "rounded too much": (
        lambda: mdp(changed(TABLE, ((0, 1, 1), 0.7998)), normalize=True),
        r"sums to 0\.9998.*missing outcome$",
    ),
    "initial name": (lambda: mdp(initial="ext", state_names=["a", "b", "exit"]), r"'ext' \(did you mean 'exit'\?\)"),
    "initial without names": (lambda: mdp(initial="exit"), r"no state is called 'exit'.*no state names"),
    "initial outside": (lambda: mdp(initial=3), r"initial: state 3 does not exist; states are 0 to 2"),
    "initial parts": (lambda: mdp(initial={0: 0.5}), r"initial sums to 0\.5"),
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
    "initial number": (lambda: mdp(initial=0.5), r"initial has shape \[\].*\[S\] = \[3\]"),
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
