"""Transition tables as people write them: any keys, missing rows and actions; what cannot be read is said."""

import math
import random

import numpy as np
import pandas as pd
import pytest
import torch
from test_toy_text import Table

import cai
from cai.models import from_gymnasium, gymnasium_model


class Written:
    """An environment with a table written by hand."""

    spec = None

    def __init__(self, table, start=None):
        self.P = table
        if start is not None:
            self.initial_state_distrib = np.array(start)

    @property
    def unwrapped(self):
        return self


LABELS = {
    "tuples": lambda s: divmod(s, 2),
    "words": lambda s: f"room {s}",
    "from 1": lambda s: s + 1,
    "numpy numbers": np.int64,
    "gaps": lambda s: 10 * s,
}


def drawn(seed, actions=2):
    """(rows [S][action] of outcomes, and which states end episodes), with actions missing here and there."""
    draw = random.Random(seed)
    size = draw.randint(2, 6)
    final = size - 1
    rows = []
    for _ in range(final):
        row = {}
        for action in draw.sample(range(actions), draw.randint(1, actions)):
            nexts = draw.sample(range(size), draw.randint(1, size))
            weights = [draw.random() + 0.01 for _ in nexts]
            row[action] = [
                (weight / sum(weights), n, draw.choice([-1.0, 0.5, 2.0]), n == final)
                for weight, n in zip(weights, nexts, strict=True)
            ]
        rows.append(row)
    rows[0].setdefault(0, [(1.0, final, 1.0, True)])
    return rows, final


@pytest.mark.parametrize("how", LABELS)
@pytest.mark.parametrize("seed", range(8))
def test_the_names_of_states_change_nothing(how, seed):
    rows, final = drawn(seed)
    actions = max(len({a for row in rows for a in row}), 1)
    full = Table(*[[] for _ in range(final + 1)])
    full.P = {s: dict(row) for s, row in enumerate(rows)} | {
        final: {a: [(1.0, final, 0.0, True)] for a in range(actions)}
    }
    want = cai.infer(gymnasium_model(full, horizon=5)).values
    label = LABELS[how]
    table = {
        label(s): {a: [(p, label(n), r, end) for p, n, r, end in outcomes] for a, outcomes in row.items()}
        for s, row in enumerate(rows)
    }
    model = gymnasium_model(Written(table), horizon=5, initial=label(0))
    names = [str(int(label(s)) if how == "numpy numbers" else label(s)) for s in range(final + 1)]
    reached = [names.index(name) for name in model.mdp.state_names]
    torch.testing.assert_close(cai.infer(model).values, want[:, reached])


def test_named_actions_and_fewer_of_them():
    table = {"hall": {"stay": [(1.0, "hall", 0.0, False)], "leave": [(1.0, "street", 1.0, True)]}, "street": {}}
    mdp, reward = from_gymnasium(Written(table, [1.0, 0.0]))
    assert (mdp.state_names, mdp.action_names) == (("hall", "street"), ("stay", "leave"))
    assert mdp.terminal.tolist() == [False, True]
    table["attic"] = {"leave": [(1.0, "hall", 0.0, False, False)]}
    mdp, _ = from_gymnasium(Written(table, [0.5, 0.0, 0.5]))
    assert mdp.available.tolist() == [[True, True], [True, True], [False, True]]
    assert mdp.initial.tolist() == [0.5, 0.0, 0.5]
    assert reward.table.tolist() == [[0.0, 1.0], [0.0, 0.0]]


def test_a_tuple_like_a_state_is_no_list_of_probabilities():
    """(1, 0) is a cell that is not there, and was read as a start that is surely the first state."""
    table = {(0, 0): {0: [(1.0, (0, 1), 1.0, False)]}, (0, 1): {0: [(1.0, (0, 0), 0.0, False)]}}
    with pytest.raises(ValueError, match=r"\(1, 0\) is no state of the table; its states are"):
        from_gymnasium(table, initial=(1, 0))
    assert from_gymnasium(table, initial=(0.25, 0.75))[0].initial.tolist() == [0.25, 0.75]


@pytest.mark.parametrize("initial", [(0, 1), "(0, 1)", {(0, 1): 1.0}, [0.0, 1.0, 0.0], torch.tensor([0.0, 1.0])])
def test_the_start_may_be_said(initial):
    table = {(0, 0): {0: [(1.0, (0, 1), 0.0, False)]}, (0, 1): {0: [(1.0, (0, 2), 0.0, True)]}}
    model = gymnasium_model(Written(table), initial=initial)
    assert model.mdp.initial.tolist() == [0.0, 1.0, 0.0]
    assert from_gymnasium("FrozenLake-v1", initial=5)[0].initial[5] == 1


def row(*outcomes):
    return {0: {0: list(outcomes)}, 1: {0: [(1.0, 1, 0.0, True)]}}


REFUSED = {
    "array": (np.ones((2, 1, 2)), TypeError, r"P of Written is a ndarray; expected \{state.*MDP\(transitions"),
    "numbers": ({0: 1, 1: 2}, TypeError, r"P\[0\] of Written is a int; expected \{state"),
    "no actions": ({0: {}}, ValueError, r"no action in any state"),
    "outcome a dict": ({0: {0: {1: 1.0}}}, TypeError, r"P\[0\]\[0\] of Written is \{1: 1\.0\}; expected \[\(prob"),
    "no list": (row() | {0: {0: (1.0, 1, 0.0, True)}}, ValueError, r"P\[0\]\[0\].*holds 1\.0; an outcome is \(prob"),
    "3-tuples": (row((1.0, 1, 0.0)), ValueError, r"holds \(1\.0, 1, 0\.0\); an outcome is"),
    "truncated": (row((1.0, 1, 0.0, False, True)), ValueError, r"truncated.*horizon=\.\.\."),
    "negative": (row((-0.5, 1, 0.0, True), (1.5, 0, 0.0, False)), ValueError, r"probability -0\.5"),
    "NaN": (row((float("nan"), 1, 0.0, True), (1.0, 0, 0.0, False)), ValueError, r"probability nan"),
    "sum": (row((0.5, 1, 0.0, True)), ValueError, r"P\[0\]\[0\] of Written sum to 0\.5, not to 1"),
    "reward a word": (row((1.0, 1, "a", True)), TypeError, r"'a' where the reward belongs"),
    "order": (row((1.0, 1, True, 5.0)), TypeError, r"5\.0 where an outcome says whether it terminated"),
    "next state a list": (row((1.0, [1], 0.0, True)), TypeError, r"\[1\], which cannot be a key"),
    "in percent": (row((50, 1, 0.0, True), (50, 0, 0.0, False)), ValueError, r"sum to 100, not to 1; divide each by"),
    "rounded": (row(*[(0.3333, 1, 0.0, True)] * 3), ValueError, r"sum to 0\.9999, not to 1; if they were rounded"),
    "an info": (
        row((1.0, 1, 0.0, False, {"x": 1})),
        TypeError,
        r"a fifth entry says whether the episode was",
    ),
    "reward NaN": (row((1.0, 1, float("nan"), True)), ValueError, r"P\[0\]\[0\] of Written holds the reward nan"),
    "alike": ({0: {0: [(1.0, "0", 0.0, True)]}, 1: {0: [(1.0, 0, 0.0, True)]}}, ValueError, r"states 0 and '0', which"),
    "no entry": (row((1.0, 7, 0.0, False)), ValueError, r"leads to 7, which has no entry.*True.*states of P are 0, 1"),
}


@pytest.mark.parametrize(("table", "error", "pattern"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_said(table, error, pattern):
    with pytest.raises(error, match=pattern):
        from_gymnasium(Written(table, [1.0, 0.0]))


def test_a_bad_start_is_said():
    with pytest.raises(ValueError, match=r"no initial_state_distrib\); say it with initial"):
        from_gymnasium(Written(row((1.0, 1, 0.0, True))))
    for initial, pattern in ((7, "7 is no state of the table; its states are 0, 1"), ([0.5, 0.0], "sums to 0.5")):
        with pytest.raises(ValueError, match=pattern):
            from_gymnasium(Written(row((1.0, 1, 0.0, True))), initial=initial)
    with pytest.raises(ValueError, match=r"has no transition table.*count_model\(environment, bins.*Pyro program"):
        gymnasium_model("CartPole-v1")
    with pytest.raises(ValueError, match=r"Three ways on: cai.infer\(cai.models.environment_model\(environment, disc"):
        gymnasium_model("CartPole-v1")


def test_the_table_itself_is_read_too():
    table = row((0.25, 1, 0.0, True), (0.75, 0, 2.0, False))
    model = gymnasium_model(table, initial=0, horizon=3)
    assert torch.equal(cai.infer(model).values, cai.infer(gymnasium_model(Written(table), initial=0, horizon=3)).values)
    for given, pattern in (
        (None, "the environment is None; give a Gymnasium environment, its class, its id, or its table P"),
        (np.ones((2, 1, 2)), r"MDP\(transitions"),
    ):
        with pytest.raises(TypeError, match=pattern):
            from_gymnasium(given, initial=0)
    with pytest.raises(ValueError, match="the table does not say where it starts; say it with initial="):
        from_gymnasium(table)
    for given in ("FrozenLake-v1", Written(table)):
        with pytest.raises(ValueError, match=r"did you mean 'discount'\?"):
            gymnasium_model(given, gamma=0.9)


def test_the_start_may_be_a_series_and_what_is_forbidden_sets_no_temperature():
    table = {"a": {0: [(0.5, "b", -math.inf, False), (0.5, "b", 3.0, False)]}, "b": {0: [(1.0, "b", 0.0, True)]}}
    model = gymnasium_model(table, initial=pd.Series({"b": 0.25, "a": 0.75}), horizon=3)
    assert model.mdp.initial.tolist() == [0.75, 0.25, 0.0]
    assert model.temperature == 0.03
