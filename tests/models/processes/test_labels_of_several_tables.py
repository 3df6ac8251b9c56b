"""Labels of several levels, of next states, of tables in lists, and of penalties: put in order by name."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import xarray

import cai
from cai.models import (
    MDP,
    DistancePenalty,
    LogBarrier,
    TableReward,
    TimeTableReward,
    TrajectoryModel,
    VisitationPenalty,
)

STATES, ACTIONS = ["home", "work", "bar"], ["walk", "ride"]
RNG = np.random.default_rng(1)
MOVES = RNG.dirichlet(np.ones(3), size=(3, 2))
START = np.array([0.2, 0.3, 0.5])
EARNED, GAINS = RNG.normal(size=(3, 2)), RNG.normal(size=(3, 2, 3))
PROCESS = MDP(MOVES, START, state_names=STATES, action_names=ACTIONS)


def frame(table, order=(2, 0, 1), columns=(0, 1)):
    """The table with labels, in another order."""
    return pd.DataFrame(table, STATES, ACTIONS).iloc[list(order), list(columns)]


def evidence(**parts):
    return float(cai.infer(TrajectoryModel(PROCESS, horizon=3, **parts)).log_evidence)


def named(table):
    return xarray.DataArray(table, coords={"s": STATES, "a": ACTIONS, "n": STATES}, dims=("s", "a", "n"))


@pytest.mark.parametrize("seed", range(5))
def test_next_states_and_levels_are_put_in_order(seed):
    """Labels of the third axis count, and an index of several levels is as many axes."""
    draw, want = np.random.default_rng(seed), evidence(reward=GAINS)
    mixed = named(GAINS).isel(s=draw.permutation(3), a=draw.permutation(2), n=draw.permutation(3))
    long = mixed.to_series().sample(frac=1, random_state=seed)
    for given in (mixed, long, long.unstack(), TableReward(long), TableReward(mixed)):
        assert evidence(reward=given) == want
    pairs = frame(EARNED).stack().sample(frac=1, random_state=seed)
    assert evidence(reward=pairs) == evidence(reward=EARNED)
    moves = named(MOVES).to_series().sample(frac=1, random_state=seed)
    for given in (moves, moves.unstack()):
        assert torch.equal(MDP(given, START, state_names=STATES, action_names=ACTIONS).dense(), PROCESS.dense())


def test_tuples_may_be_names():
    names = ["(1, 0)", "(0, 0)", "(0, 1)"]
    start = pd.Series({(0, 0): 0.25, (0, 1): 0.5, (1, 0): 0.25})
    assert MDP(MOVES, start, state_names=names).initial.tolist() == [0.25, 0.25, 0.5]


def test_tables_listed_over_time_are_put_in_order_each():
    over_time = np.stack([EARNED, -2 * EARNED, EARNED**2])
    orders = [((0, 1, 2), (0, 1)), ((2, 0, 1), (1, 0)), ((1, 0, 2), (1, 0))]
    frames = [frame(table, *order) for table, order in zip(over_time, orders, strict=True)]
    assert evidence(reward=TimeTableReward(frames)) == evidence(reward=TimeTableReward(over_time))
    rows = [table["ride"] for table in frames]
    assert evidence(reward=TimeTableReward(rows)) == evidence(reward=TimeTableReward(over_time[:, :, 1]))
    stated = evidence(reward=[pd.Series(row, ACTIONS).iloc[:: (-1) ** at] for at, row in enumerate(EARNED)])
    assert stated == evidence(reward=EARNED)  # rows of states
    squares = [row**2 for row in rows]
    assert evidence(reward=VisitationPenalty(squares)) == evidence(reward=VisitationPenalty(over_time[:, :, 1] ** 2))


@pytest.mark.parametrize("made", [VisitationPenalty, LogBarrier, lambda table: DistancePenalty("bar", metric=table)])
def test_tables_of_penalties_are_put_in_order(made):
    near, mixed = np.array([0.5, 2.0, 0.25]), pd.Series([0.25, 0.5, 2.0], ["bar", "home", "work"])
    want = evidence(reward=made(near))
    assert evidence(reward=made(mixed)) == evidence(reward=made(mixed) + 0.0) == want
    assert evidence(reward=pickle.loads(pickle.dumps(made(mixed)))) == want
    both = made(mixed).at(states=["home", "bar"])
    assert evidence(reward=both) == evidence(reward=made(near).at(states=["home", "bar"]))


REFUSED = {
    "levels, one missing": (lambda: evidence(reward=frame(EARNED).stack().iloc[1:]), "from_product"),
    "levels, one twice": (lambda: evidence(reward=frame(EARNED).stack().iloc[[0, *range(6)]]), "in it twice"),
    "more levels than axes": (lambda: MDP(MOVES, frame(EARNED).stack(), state_names=STATES), "2 levels, for 1 axes"),
    "next states": (lambda: evidence(reward=named(GAINS).assign_coords(n=["a", "b", "c"])), "no state is called 'a'"),
    "one of several": (
        lambda: TimeTableReward([frame(EARNED), frame(EARNED).set_axis(["run", "ride"], axis=1)]),
        "no label is called 'run'",
    ),
    "some of several": (lambda: TimeTableReward([frame(EARNED), pd.DataFrame(EARNED)]), "one alone has labels"),
    "visits": (lambda: evidence(reward=VisitationPenalty(pd.Series(START, ["a", "b", "c"]))), "visits is labelled"),
    "slack": (lambda: evidence(reward=LogBarrier(pd.Series(START, ["a", "b", "c"]))), "slack is labelled"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_labels_are_refused(name):
    ask, text = REFUSED[name]
    with pytest.raises(ValueError, match=text):
        ask()
