"""Tables with labels (pandas) are put into the order of the process by name, wherever arrays go; or refused."""

import copy
import itertools
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import xarray

import cai
from cai.inference import filter_states
from cai.inference.core.storage import save
from cai.models import (
    MDP,
    Goal,
    LinearReward,
    ModuleReward,
    ObservationModel,
    OutcomeReward,
    TableReward,
    TimeTableReward,
    TrajectoryModel,
)
from cai.models.rewards import RewardFactor
from cai.models.rewards.base import evaluate_factor

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


def test_members_of_a_batch_and_potentials_are_put_in_order():
    model = TrajectoryModel(PROCESS, EARNED, horizon=3)
    priors = model.batch(action_prior=[frame(PRIOR), frame(PRIOR[::-1])]).action_priors
    assert np.abs(priors.numpy() - np.stack([PRIOR, PRIOR[::-1]])).max() <= 1e-15
    priors = model.batch(action_prior=[pd.Series([0.25, 0.75], ["ride", "walk"])]).action_priors
    assert priors.tolist() == [[[0.75, 0.25]] * 3]
    starts = model.batch(
        initial=[pd.Series(START, STATES).iloc[[1, 2, 0]], pd.Series({"bar": 1.0, "home": 0, "work": 0})]
    )
    assert np.abs(starts.initials.numpy() - [START, [0, 0, 1]]).max() <= 1e-15
    potential = pd.Series([3.0, 1.0, 2.0], ["bar", "home", "work"])
    want = cai.infer(cai.models.shaped(model, [1.0, 2.0, 3.0])).log_evidence
    assert float(cai.infer(cai.models.shaped(model, potential)).log_evidence - want) == 0


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
    assert cai.evaluate(other, model).expected_return == want
    seen = RNG.dirichlet(np.ones(2), size=3)
    plain = ObservationModel(seen, ["quiet", "loud"])
    labelled = frame(seen, columns=(1, 0), names=["quiet", "loud"])
    sorted_out = ObservationModel(labelled, ["quiet", "loud"], state_names=STATES)
    assert torch.equal(sorted_out.probabilities, plain.probabilities)
    got, want = (filter_states(PROCESS, seen_by, ["loud", "quiet"], ["walk"]) for seen_by in (sorted_out, plain))
    assert np.allclose(np.asarray(got), np.asarray(want))
    by_its_labels = filter_states(PROCESS, ObservationModel(labelled), ["loud", "quiet"], ["walk"])
    assert torch.equal(by_its_labels, want)
    strangers = frame(seen, names=["quiet", "loud"]).rename(index={"bar": "pub"})
    with pytest.raises(ValueError, match="no state is called 'pub' and there is nothing for 'bar'"):
        filter_states(PROCESS, ObservationModel(strangers), ["loud"], [])


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


@pytest.mark.parametrize(("states", "actions"), ORDERS)
def test_factors_are_put_in_order_where_they_meet_a_process(states, actions):
    rows, columns = list(states), list(actions)
    earned, of_state = frame(EARNED, states, actions), pd.Series(START, STATES).iloc[rows]
    want = evidence(reward=EARNED)
    over_time = np.stack([START, -START, 2 * START])
    timed = pd.DataFrame(over_time, columns=STATES).iloc[[2, 0, 1], rows]
    features = RNG.normal(size=(3, 2))
    weights = np.array([0.5, -2.0])
    linear = frame(features, states, actions, names=["near", "loud"])
    weighed = pd.Series(weights, ["near", "loud"])
    module = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64).requires_grad_(False)
    xs = xarray.DataArray(MOVES, {"s": STATES, "a": ACTIONS, "k": range(3)}, ("s", "a", "k"))
    listed = MDP.from_successors(np.tile([0, 1, 2], (3, 2, 1)), MOVES, START, state_names=STATES, action_names=ACTIONS)
    plain_features = features[:, columns]
    pairs = [
        (TableReward(earned), EARNED),
        (2.0 * TableReward(earned).at(actions=["ride"]).named("paid"), 2.0 * TableReward(EARNED).at(actions=["ride"])),
        (TableReward(START) + of_state, TableReward(START) + START),
        (Goal("bar", 1.0) + earned, Goal("bar", 1.0) + EARNED),
        (TableReward(of_state).scheduled([1.0, 2.0, 3.0]), TableReward(START).scheduled([1.0, 2.0, 3.0])),
        (TimeTableReward(timed), TimeTableReward(over_time)),
        (LinearReward(linear, weights[columns]), LinearReward(features, weights)),
        (LinearReward(linear, weighed), LinearReward(features, weights)),
        (LinearReward(linear, weighed, names=["loud", "near"]), LinearReward(features, weights)),
        (LinearReward(linear.to_numpy()[np.argsort(rows)], weighed.iloc[columns]), LinearReward(features, weights)),
        (ModuleReward(module, linear), ModuleReward(module, plain_features)),
    ]
    for place, (labelled, plain) in enumerate(pairs):
        assert evidence(reward=labelled) == pytest.approx(evidence(reward=plain), rel=1e-14), place
    assert evidence(reward=TableReward(earned)) == want
    outcomes = OutcomeReward(xs[rows, columns])
    assert evidence(mdp=listed, reward=outcomes) == evidence(mdp=listed, reward=OutcomeReward(MOVES))
    reward = TrajectoryModel(PROCESS, LinearReward(linear, weighed), horizon=1).reward
    assert np.array_equal(
        reward.features[:, list(reward.names).index("loud")], features[:, 1]
    )  # for whoever reads them
    shown = ObservationModel.deterministic(pd.Series([0, 1, 1], STATES).iloc[rows])
    seen = (filter_states(PROCESS, m, [1, 0], ["walk"]) for m in (shown, ObservationModel.deterministic([0, 1, 1])))
    assert torch.equal(*seen)


@pytest.mark.parametrize("way", [lambda x, path: copy.deepcopy(x), lambda x, path: pickle.loads(pickle.dumps(x)), None])
def test_labels_travel_with_factors(way, tmp_path):
    table, weights = frame(EARNED), pd.Series([1.0, 2.0], ACTIONS)
    for factor in (TableReward(table), 2.0 * TableReward(table), LinearReward(table, weights)):
        want = evidence(reward=factor)
        moved = cai.load(save(tmp_path / "factor", factor)) if way is None else way(factor, tmp_path)
        assert evidence(reward=moved) == want


def test_a_reward_of_ones_own_may_hold_a_labelled_one():
    class Doubled(RewardFactor):
        reads_time = reads_outcome = False

        def evaluate(self, mdp, step):
            return 2.0 * evaluate_factor(TableReward(frame(EARNED)), mdp, step)

    assert evidence(reward=Doubled()) == evidence(reward=2.0 * EARNED)


PUB = pd.Series({"home": 1.0, "work": 2.0, "pub": 0.0})
REFUSED = {
    "a factor": (lambda: evidence(reward=TableReward(PUB)), "no state is called 'pub'"),
    "a factor in a sum": (lambda: evidence(reward=TableReward(START) + PUB), "no state is called 'pub'"),
    "over time": (lambda: evidence(reward=TimeTableReward(pd.DataFrame([PUB] * 3))), "no state is called 'pub'"),
    "no time": (
        lambda: evidence(reward=TimeTableReward(pd.DataFrame([START] * 3, [1, 2, 3], STATES))),
        "no time index is called '3'",
    ),
    "features": (
        lambda: evidence(reward=LinearReward(pd.DataFrame({"near": PUB}), [1.0])),
        "no state is called 'pub'",
    ),
    "weights": (
        lambda: LinearReward(pd.DataFrame(EARNED, STATES, ["near", "far"]), pd.Series([1.0, 2.0], ["near", "loud"])),
        "no feature is called 'loud'",
    ),
    "seen": (
        lambda: filter_states(PROCESS, ObservationModel.deterministic(PUB.astype(int)), [0], []),
        "no state is called 'pub'",
    ),
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
    "prior": (lambda: evidence(reward=1.0, action_prior=pd.Series([0.5, 0.5], ["walk", "swim"])), "'swim'"),
    "start": (lambda: MDP(MOVES, pd.Series(START, ["a", "b", "c"]), state_names=STATES), "initial is labelled"),
    "terminal": (
        lambda: MDP(MOVES, START, terminal=pd.Series([False] * 3, ["a", "b", "c"]), state_names=STATES),
        "terminal is labelled",
    ),
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
