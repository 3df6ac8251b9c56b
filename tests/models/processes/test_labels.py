"""Tables with labels (pandas) are put into the order of the process by name, wherever arrays go; or refused."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
import xarray

import cai
from cai.inference import filter_states
from cai.models import MDP, Goal, ObservationModel, TableReward, TimeTableReward, TrajectoryModel

STATES, ACTIONS = ["home", "work", "bar"], ["walk", "ride"]
RNG = np.random.default_rng(0)
MOVES = RNG.dirichlet(np.ones(3), size=(3, 2))
START = np.array([0.2, 0.3, 0.5])
PRIOR = RNG.dirichlet(np.ones(2), size=3)
EARNED = RNG.normal(size=(3, 2))
PROCESS = MDP(MOVES, START, state_names=STATES, action_names=ACTIONS)
ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.permutations(range(2))))


def frame(table, order=(2, 0, 1), columns=None, names=ACTIONS):
    """The table with labels, in another order."""
    columns = range(table.shape[1]) if columns is None else columns
    labelled = pd.DataFrame(table, index=STATES, columns=names[: table.shape[1]])
    return labelled.iloc[list(order), list(columns)]


def evidence(**parts):
    mdp = parts.pop("mdp", PROCESS)
    return float(cai.infer(TrajectoryModel(mdp, horizon=3, **parts)).log_evidence)


@pytest.mark.parametrize(("states", "actions"), ORDERS)
def test_every_order_is_the_same_problem(states, actions):
    want = evidence(reward=EARNED, action_prior=PRIOR)
    rows = list(states)
    mdp = MDP(
        MOVES,
        pd.Series(START, STATES).iloc[rows],
        available=frame(np.ones((3, 2), dtype=bool), states, actions),
        terminal=pd.Series([False] * 3, STATES).iloc[rows],
        state_names=STATES,
        action_names=ACTIONS,
    )
    got = evidence(mdp=mdp, reward=frame(EARNED, states, actions), action_prior=frame(PRIOR, states, actions))
    assert got == pytest.approx(want, abs=1e-12)
    of_state, shared = EARNED[:, 0], PRIOR[0]
    got = evidence(
        reward=pd.Series(of_state, STATES).iloc[rows], action_prior=pd.Series(shared, ACTIONS).iloc[list(actions)]
    )
    assert got == pytest.approx(evidence(reward=of_state, action_prior=shared), abs=1e-12)
    base = TrajectoryModel(PROCESS, EARNED, horizon=3)
    batch = base.batch(
        reward=pd.DataFrame([of_state, -of_state], columns=STATES).iloc[:, rows],
        initial=pd.DataFrame([START, START[::-1]], index=["a", "b"], columns=STATES).iloc[:, rows],
        action_prior=pd.DataFrame([shared, shared[::-1]], columns=ACTIONS).iloc[:, list(actions)],
    )
    plain = base.batch(reward=[of_state, -of_state], initial=[START, START[::-1]], action_prior=[shared, shared[::-1]])
    assert torch.equal(cai.infer(batch).log_evidence, cai.infer(plain).log_evidence)
    listed = base.batch(reward=[frame(EARNED, states, actions), 2 * frame(EARNED, states, actions)])
    assert torch.equal(cai.infer(listed).log_evidence, cai.infer(base.batch(reward=[EARNED, 2 * EARNED])).log_evidence)


def test_five_is_paid_at_work():
    mdp = MDP([[[0.0, 1.0]], [[0.0, 1.0]]], initial=[1.0, 0.0], state_names=["home", "work"])
    model = TrajectoryModel(mdp, reward=pd.Series({"work": 5.0, "home": -1.0}), horizon=1)
    assert float(cai.infer(model, "variational").believed_return) == -1.0


def test_transitions_policies_and_observations():
    tables = {
        name: pd.DataFrame(MOVES[:, a], STATES, STATES).iloc[[1, 2, 0], [2, 0, 1]] for a, name in enumerate(ACTIONS)
    }
    mdp = MDP.from_actions(
        dict(reversed(tables.items())), pd.Series(START, STATES), state_names=STATES, action_names=ACTIONS
    )
    assert np.allclose(mdp.dense().numpy(), MOVES, atol=1e-15)
    found = MDP.from_actions(tables, "work")
    assert (found.state_names, found.action_names) == (("work", "bar", "home"), tuple(ACTIONS))
    assert np.allclose(found.dense()[2, 1, 0], MOVES[0, 1, 1])
    model = TrajectoryModel(PROCESS, EARNED, horizon=3)
    want = cai.evaluate(cai.Policy(PRIOR, state_names=STATES, action_names=ACTIONS), model).expected_return
    policy = cai.Policy(frame(PRIOR, columns=(1, 0)), state_names=STATES, action_names=ACTIONS)
    assert cai.evaluate(policy, model).expected_return == want
    other = cai.Policy(frame(PRIOR))
    assert other.state_names == ("bar", "home", "work")
    with pytest.raises(ValueError, match="state"):
        cai.evaluate(other, model)
    seen = RNG.dirichlet(np.ones(2), size=3)
    plain = ObservationModel(seen, ["quiet", "loud"])
    labelled = frame(seen, columns=(1, 0), names=["quiet", "loud"])
    sorted_out = ObservationModel(labelled, ["quiet", "loud"], state_names=STATES)
    assert torch.equal(sorted_out.probabilities, plain.probabilities)
    got, want = (filter_states(PROCESS, seen_by, ["loud", "quiet"], ["walk"]) for seen_by in (sorted_out, plain))
    assert np.allclose(np.asarray(got), np.asarray(want))
    with pytest.raises(ValueError, match="for the states bar, home, work, and the process has home, work, bar"):
        filter_states(PROCESS, ObservationModel(labelled), ["loud"], [])


def test_labels_that_count_from_0_are_positions():
    assert evidence(reward=pd.Series(EARNED[:, 0])) == evidence(reward=EARNED[:, 0])
    numbered = MDP(MOVES, START)
    got = evidence(mdp=numbered, reward=pd.Series(EARNED[:, 0]).iloc[[2, 0, 1]])
    assert got == evidence(mdp=numbered, reward=EARNED[:, 0])


def test_tables_of_xarray_are_put_in_order_too():
    rewards = xarray.DataArray(EARNED, {"state": STATES, "action": ACTIONS}, ("state", "action"))
    moves = xarray.DataArray(MOVES, {"s": STATES, "a": ACTIONS, "s'": STATES}, ("s", "a", "s'"))
    turned = MDP(moves[[2, 0, 1], ::-1, [1, 2, 0]], START, state_names=STATES, action_names=ACTIONS)
    assert torch.equal(turned.transitions, PROCESS.transitions)
    assert evidence(reward=rewards[[1, 2, 0], ::-1]) == evidence(reward=EARNED)
    with pytest.raises(ValueError, match="no state is called 'walk'"):
        evidence(reward=rewards.T)


@pytest.mark.parametrize("dtype", [bool, object, "boolean"])
def test_masks_of_any_kind_are_put_in_order(dtype):
    loops = np.eye(3)[:, None].repeat(2, 1)
    ends = pd.Series([True, False, False], STATES, dtype=dtype).iloc[[2, 0, 1]]
    assert MDP(loops, START, terminal=ends, state_names=STATES).terminal.tolist() == [True, False, False]
    moved = pd.DataFrame(np.eye(3, k=1, dtype=bool), STATES, STATES).iloc[[1, 2, 0], [2, 0, 1]]
    base = TableReward(START)
    got = evidence(reward=base.at(transitions=moved.astype(dtype)))
    assert got == evidence(reward=base.at(transitions=[("home", "work"), ("work", "bar")]))


def test_numbers_of_any_kind_are_read():
    for dtype in (object, "Float64"):
        assert evidence(reward=pd.Series(EARNED[:, 0], STATES, dtype=dtype)) == evidence(reward=EARNED[:, 0])


def test_tables_of_runs_are_read_by_their_entries():
    """A DataFrame iterates over the labels of its columns, which count as observations do."""
    model = ObservationModel(RNG.dirichlet(np.ones(2), size=3), ["quiet", "loud"])
    seen, taken = [["loud", "loud"], ["quiet", "loud"]], [["ride"], ["walk"]]
    want = filter_states(PROCESS, model, seen, taken)
    assert torch.equal(filter_states(PROCESS, model, pd.DataFrame(seen), pd.DataFrame(taken)), want)
    numbers = pd.DataFrame([[1, 1], [0, 1]])
    assert torch.equal(filter_states(PROCESS, model, numbers, taken), want)
    with pytest.raises(TypeError, match=r"observations\[1\] is nan; write None where nothing was observed"):
        filter_states(PROCESS, model, pd.Series([0, None]), ["ride"])
    with pytest.raises(TypeError, match="give a list"):
        filter_states(PROCESS, model, {0: "loud", 1: "loud"}, ["ride"])


def test_a_table_on_the_left_leaves_the_sum_to_the_reward():
    plain = pd.Series(START)
    assert evidence(reward=plain + Goal("bar", 1.0)) == evidence(reward=START + Goal("bar", 1.0))


REFUSED = {
    "listed rows": (lambda: evidence(reward=[pd.Series(row, ACTIONS) for row in EARNED]), r"reward\[0\] is a pandas"),
    "listed tables": (
        lambda: MDP([pd.DataFrame(p, ["x", "y"], ["x", "y"]) for p in SMALL], [1, 0]),
        r"transitions\[0\] is a pandas DataFrame",
    ),
    "names or positions": (
        lambda: evidence(mdp=MDP(MOVES, START, state_names=["2", "1", "0"]), reward=pd.Series(START)),
        "could be names or positions",
    ),
    "unknown": (lambda: evidence(reward=pd.Series({"home": 1.0, "work": 2.0, "pub": 0.0})), "no state is called 'pub'"),
    "missing": (lambda: evidence(reward=pd.Series({"home": 1.0, "work": 2.0})), "there is nothing for 'bar'"),
    "twice": (lambda: evidence(reward=pd.Series([1.0, 2.0, 3.0], ["home", "home", "bar"])), "'home' twice"),
    "turned": (lambda: evidence(reward=frame(EARNED).T), "no state is called 'walk'"),
    "no names": (lambda: evidence(mdp=MDP(MOVES, START), reward=pd.Series(START, STATES)), "give state_names"),
    "numbers for names": (lambda: evidence(reward=pd.Series(START).iloc[[1, 0, 2]]), "no state is called '1'"),
    "levels": (lambda: evidence(reward=frame(EARNED).stack()), "unstack"),
    "explicit": (lambda: TableReward(pd.Series(START, STATES)), r"here only positions count.*table\.loc"),
    "in a sum": (lambda: TableReward(START) + pd.Series(START, STATES), "only positions count"),
    "over time": (lambda: TimeTableReward(pd.DataFrame([START], columns=STATES)), "only positions count"),
    "prior": (lambda: evidence(reward=1.0, action_prior=pd.Series([0.5, 0.5], ["walk", "swim"])), "'swim'"),
    "start": (lambda: MDP(MOVES, pd.Series(START, ["a", "b", "c"]), state_names=STATES), "initial is labelled"),
    "terminal": (
        lambda: MDP(MOVES, START, terminal=pd.Series([False] * 3, ["a", "b", "c"]), state_names=STATES),
        "terminal is labelled",
    ),
    "seen": (lambda: ObservationModel.deterministic(pd.Series([0, 1, 1], STATES)), "only positions count"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_labels_are_refused(name):
    ask, text = REFUSED[name]
    with pytest.raises(ValueError, match=text):
        ask()


@pytest.mark.parametrize(
    ("ask", "text"),
    [
        (lambda: MDP({"walk": np.eye(3)}, START), "keys would be ignored"),
        (lambda: MDP(MOVES, START, terminal=pd.Series([1, 0], ["home", "work"]), state_names=STATES), "give bools"),
    ],
)
def test_what_has_keys_or_numbers_for_a_mask_is_refused(ask, text):
    with pytest.raises(TypeError, match=text):
        ask()


SMALL = np.array([[[0.5, 0.5], [0.8, 0.2]], [[0.0, 1.0], [0.1, 0.9]]])  # [A, S, S], known values 42.44 and 36.05


def test_one_matrix_an_action():
    import scipy.sparse

    for given in (
        SMALL,
        list(SMALL),
        SMALL.tolist(),
        torch.as_tensor(SMALL),
        [scipy.sparse.csr_matrix(p) for p in SMALL],
    ):
        mdp = MDP.from_actions(given, [1, 0])
        model = TrajectoryModel(mdp, [[5, 10], [-1, 2.0]], horizon=math.inf, discount=0.9)
        values = cai.infer(model, "value-iteration").values[0]
        assert values.tolist() == pytest.approx([42.44186046511628, 36.04651162790698], rel=1e-8)
    for given, text in (
        (np.eye(2), "expected one"),
        (scipy.sparse.eye(2), "from_sparse"),
        ([np.eye(2), np.eye(3)], "shapes"),
        ([np.eye(2), scipy.sparse.eye(2)], "sparse and some are dense"),
        ([], "shapes"),
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            MDP.from_actions(given, [1, 0])


def test_a_table_that_reads_both_ways_is_named(caplog):
    MDP(SMALL, [1, 0])
    assert "read as [S, A, S]" in caplog.text
    assert "from_actions" in caplog.text
    caplog.clear()
    MDP(SMALL, [1, 0], axes="state-action-state")
    MDP.from_actions(SMALL, [1, 0])
    MDP(MOVES, START)
    MDP((SMALL + SMALL.transpose(1, 0, 2)) / 2, [1, 0])  # both readings are the same
    absorbing = np.array([[[0.5, 0.5], [0.8, 0.2]], [[0.0, 1.0], [0.0, 1.0]]])
    MDP(absorbing, [1, 0], terminal=[1])  # the other way state 1 could be left
    assert not caplog.text
    with pytest.raises(ValueError, match="axes is 'sas'"):
        MDP(SMALL, [1, 0], axes="sas")
