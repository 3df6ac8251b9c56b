"""Demonstrations: where they come from, what is padded, and what is refused."""

import dataclasses
import math

import gymnasium
import numpy as np
import pandas as pd
import pytest
import torch

import cai
from cai.inverse import L2, Demonstrations, fit
from cai.inverse.tabular.data import read_demonstrations
from cai.models import LinearReward, TrajectoryModel, bridge, from_gymnasium, gridworld


def test_ragged_rows_are_padded_by_their_last_state():
    shown = Demonstrations([[3, 1, 2], [0, 4], [5]], [[1, 0], [2], []])
    assert shown.states.tolist() == [[3, 1, 2], [0, 4, 4], [5, 5, 5]]
    assert shown.lengths.tolist() == [2, 1, 0]
    assert shown.complete.all()
    assert [len(actions) for _, actions in shown] == [2, 1, 0]
    assert "3, 0 to 2 actions" in repr(shown)
    again = Demonstrations([[3, 1, 2], [0, 4, -1]], [[1, 0], [2, -1]], lengths=[2, 1])
    assert again.states.tolist() == [[3, 1, 2], [0, 4, 4]]
    assert again.actions.tolist() == [[1, 0], [2, 0]]


def test_parts_of_them():
    shown = Demonstrations(
        [[3, 1], [0, 4]], [[1], [2]], persons=["ann", "bo"], weights=[1.0, 3.0], complete=[True, False]
    )
    part = shown.select([1, 1])
    assert part.persons == ("bo", "bo")
    assert part.weights.tolist() == [3.0, 3.0]
    assert not part.complete.any()
    assert len(shown.select(torch.tensor([True, False]))) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"states": [[0, 1]], "actions": [[0], [1]]}, "1 rows of states and 2 of actions"),
        ({"states": [], "actions": []}, "no demonstration"),
        ({"states": [[0, 1]], "actions": [[0, 1]]}, "one state more than actions"),
        ({"states": [[0, -1]], "actions": [[0]]}, r"states\[0, 1\] is -1"),
        ({"states": [[0, 1, 2], [0, 1]], "actions": [[0, -1], [0]]}, "actions"),
        ({"states": [0, 1], "actions": [0]}, "for a single one write"),
        ({"states": [[0, 1]], "actions": [[0]], "lengths": [2]}, r"lengths\[0\] is 2"),
        ({"states": [[0, 1]], "actions": [[0]], "lengths": [1, 1]}, "lengths has shape"),
        ({"states": [[0, 1]], "actions": [[0]], "weights": [-1.0]}, r"weights\[0\] is -1"),
        ({"states": [[0, 1]], "actions": [[0]], "weights": [0.0]}, "all weights are 0"),
        ({"states": [[0, 1]], "actions": [[0]], "weights": [1.0, 2.0]}, "weights has shape"),
        ({"states": [[0, 1]], "actions": [[0]], "persons": [math.nan]}, r"persons\[0\] is nan"),
        ({"states": [[0, 1]], "actions": [[0]], "persons": [None]}, r"persons\[0\] is None"),
        ({"states": [[0, 1]], "actions": [[0]], "persons": ["a", "b"]}, "2 labels for 1"),
        ({"states": [[0, 1]], "actions": [[0]], "complete": [1]}, "True or False"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        Demonstrations(**arguments)


def test_numbers_must_be_whole():
    with pytest.raises(TypeError, match="whole numbers"):
        Demonstrations([[0.5, 1.0]], [[0]])


def test_a_table_is_read_by_its_times():
    frame = pd.DataFrame(
        {
            "trajectory": ["a", "b", "a", "b", "a"],
            "time": [7, 0, 3, 1, 5],
            "state": [2, 0, 3, 4, 1],
            "action": [None, 2, 1, None, 0],
            "person": ["ann", "bo", "ann", "bo", "ann"],
            "weight": [2.0, 1.0, 2.0, 1.0, 2.0],
            "complete": [True, False, True, False, True],
        }
    )
    shown = Demonstrations.from_frame(frame)
    assert shown.states.tolist() == [[3, 1, 2], [0, 4, 4]]
    assert shown.actions.tolist() == [[1, 0], [2, 0]]
    assert shown.persons == ("ann", "bo")
    assert shown.weights.tolist() == [2.0, 1.0]
    assert shown.complete.tolist() == [True, False]


def test_a_table_of_names():
    mdp = gridworld("S.\n.G").mdp
    states = [mdp.state_names[s] for s in (0, 1, 3)]
    frame = pd.DataFrame({"trajectory": 1, "time": range(3), "state": states, "action": ["right", "down", None]})
    assert Demonstrations.from_frame(frame, mdp=mdp).states.tolist() == [[0, 1, 3]]
    with pytest.raises(TypeError, match="by whose names"):
        Demonstrations.from_frame(frame)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"time": [0, 0]}, "time 0 twice"),
        ({"action": [1.0, 0.0]}, "an action at its last time"),
        ({"action": [None, None], "time": [0, 1]}, "no action at time 0"),
        ({"state": [None, 1]}, "has no state"),
        ({"weight": [1.0, 2.0]}, "several values of weight"),
    ],
)
def test_a_table_that_is_wrong(change, said):
    frame = pd.DataFrame({"trajectory": [0, 0], "time": [0, 1], "state": [0, 1], "action": [1.0, None]} | change)
    with pytest.raises(ValueError, match=said):
        Demonstrations.from_frame(frame)
    with pytest.raises(ValueError, match="no column 'action'"):
        Demonstrations.from_frame(frame.drop(columns="action"))


def test_a_policy_is_followed_in_the_world_without_the_discount():
    model = bridge(discount=0.5)
    answer = cai.infer(model, "variational")
    shown = Demonstrations.from_policy(answer, model, 200, 1)
    assert int(shown.states.max()) < model.mdp.num_states
    assert torch.equal(shown.lengths, model.nonterminal[shown.states[:, :-1]].sum(-1))
    assert shown.complete.all()
    same = Demonstrations.from_policy(cai.extract_policy(answer), model, 200, 1)
    assert torch.equal(same.states, shown.states)
    assert not torch.equal(Demonstrations.from_policy(answer, model, 200, 2).states, shown.states)
    endless = model.replace(horizon=math.inf)
    policy = cai.extract_policy(cai.infer(endless, "variational"))
    cut = Demonstrations.from_policy(policy, endless, 50, 1, max_steps=5)
    assert torch.equal(cut.complete, model.mdp.terminal[cut.states[torch.arange(50), cut.lengths]])
    assert not cut.complete.all()


def test_policies_of_other_worlds_are_refused():
    with pytest.raises(ValueError, match="the policy knows"):
        Demonstrations.from_policy(cai.infer(bridge(), "variational"), gridworld("S.\n.G"), 2)
    with pytest.raises(ValueError, match="steps, and the horizon"):
        Demonstrations.from_policy(cai.infer(bridge(horizon=3), "variational"), bridge(horizon=6), 2)
    with pytest.raises(TypeError, match="action_probs or act"):
        Demonstrations.from_policy(object(), bridge(), 2)


def test_episodes_of_an_environment():
    environment = gymnasium.make("FrozenLake-v1", is_slippery=True, max_episode_steps=6)
    shown = Demonstrations.from_gymnasium(environment, lambda state: 2, 12, 3)
    again = Demonstrations.from_gymnasium(environment, lambda state: 2, 12, 3)
    assert torch.equal(shown.states, again.states)
    assert int(shown.lengths.max()) == 6
    assert 0 < int(shown.complete.sum()) < 12
    marked = Demonstrations.from_gymnasium(environment, lambda state: 2, 12, 3, end_state=16)
    last = marked.states[torch.arange(12), marked.lengths]
    assert torch.equal(last == 16, shown.complete)
    with pytest.raises(TypeError, match="count_model"):
        Demonstrations.from_gymnasium(gymnasium.make("CartPole-v1"), lambda state: 0, 1)


@dataclasses.dataclass
class Episode:
    observations: np.ndarray
    actions: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray


@dataclasses.dataclass
class Trajectory:
    obs: np.ndarray
    acts: np.ndarray
    terminal: bool


def test_data_of_other_libraries():
    """Written by their published formats: both hold T + 1 observations and T actions."""
    ends = np.array([False, True])
    episodes = [
        Episode(np.array([0, 1, 2]), np.array([1, 1]), ends, ~ends & False),
        Episode(np.array([0, 3]), np.array([2]), np.array([False]), np.array([True])),
    ]
    for source in (episodes, type("Data", (), {"iterate_episodes": lambda self: iter(episodes)})()):
        shown = Demonstrations.from_minari(source)
        assert shown.states.tolist() == [[0, 1, 2], [0, 3, 3]]
        assert shown.complete.tolist() == [True, False]
    rows = [Trajectory(np.array([0, 1, 2]), np.array([1, 1]), True), Trajectory(np.array([0, 3]), np.array([2]), False)]
    assert torch.equal(Demonstrations.from_imitation(rows).states, shown.states)
    assert Demonstrations.from_imitation(rows).complete.tolist() == [True, False]
    with pytest.raises(TypeError, match="without obs"):
        Demonstrations.from_imitation(episodes)
    with pytest.raises(TypeError, match="without observations"):
        Demonstrations.from_minari(rows)


def test_a_folder_of_minari_becomes_a_policy_that_runs(tmp_path):
    """Written as Minari stores it: read, fitted, and the policy walks in a Gymnasium environment to the goal."""
    h5py = pytest.importorskip("h5py")
    env = gymnasium.make("FrozenLake-v1", is_slippery=False)
    mdp, reward = from_gymnasium(env)
    model = TrajectoryModel(mdp, reward * 8.0, horizon=30)
    shown = Demonstrations.from_policy(cai.infer(model, "variational"), model, 12, seed=0)
    (tmp_path / "data").mkdir()
    with h5py.File(tmp_path / "data" / "main_data.hdf5", "w") as file:
        for number in range(12):  # of which 10 and 11 come before 2 by name
            length = int(shown.lengths[number])
            group = file.create_group(f"episode_{number}")
            group["observations"] = shown.states[number, : length + 1].numpy()
            group["actions"] = shown.actions[number, :length].numpy()
            ended = bool(model.mdp.terminal[shown.states[number, length]])
            group["terminations"] = np.arange(length) == (length - 1 if ended else -1)
            group["truncations"] = np.arange(length) == (-1 if ended else length - 1)
    read = Demonstrations.from_minari(tmp_path)
    assert read.lengths.tolist() == shown.lengths.tolist()
    assert torch.equal(Demonstrations.from_minari(str(tmp_path / "data" / "main_data.hdf5")).states, read.states)
    features = (~mdp.terminal.numpy())[:, None] * 1.0
    seen = TrajectoryModel(mdp, LinearReward(features, [-1.0], names=["step"]) + reward * 8.0, horizon=30)
    found = fit(seen, read, penalty=L2(5.0))
    policy = cai.extract_policy(cai.infer(found.model(), "variational"))
    played = Demonstrations.from_gymnasium(env, policy, 10, seed=1)
    ends = [int(states[length]) for states, length in zip(played.states, played.lengths, strict=True)]
    assert ends.count(15) >= 8
    with pytest.raises(FileNotFoundError, match=r"holds no data/main_data.hdf5; give the folder of one data set"):
        Demonstrations.from_minari(tmp_path / "data" / "none")


def corridor(**options):
    """Three cells in a row, the last one terminal."""
    return gridworld("S.G", horizon=3, **options)


@pytest.mark.parametrize(
    ("states", "actions", "options", "objective", "said"),
    [
        ([[0, 3]], [[0]], {"discount": 0.5}, "likelihood", "the absorbing state of the discount"),
        ([[0, 3]], [[0]], {}, "likelihood", "holds state 3 at time index 1; the model has 0 to 2"),
        ([[0, 1, 2]], [[1, 7]], {}, "likelihood", "holds action 7"),
        ([[0, 2]], [[1]], {}, "likelihood", "which has probability 0"),
        ([[0, 1, 2, 2, 2]], [[1, 1, 1, 1]], {}, "likelihood", "takes 4 actions, and the horizon is 3"),
        ([[0, 1]], [[1]], {}, "likelihood", "stops after 1 actions in state .*mark it as cut"),
        ([[0, 1, 2]], [[1, 1]], {"discount": 0.5}, "path", "make the discount an explicit absorbing state"),
        ([[0, 1, 2, 1]], [[1, 1, 3]], {}, "likelihood", "goes on from terminal state"),
    ],
)
def test_a_model_refuses_what_does_not_fit_it(states, actions, options, objective, said):
    with pytest.raises(ValueError, match=said):
        read_demonstrations(corridor(**options), Demonstrations(states, actions), objective)


def test_what_was_cut_has_a_likelihood_alone():
    cut = Demonstrations([[0, 1]], [[1]], complete=[False])
    assert read_demonstrations(corridor(), cut, "likelihood").number == 1
    for objective in ("moments", "path"):
        with pytest.raises(ValueError, match="demonstration 0 was cut"):
            read_demonstrations(corridor(), cut, objective)
    endless = corridor().replace(horizon=math.inf)
    whole = Demonstrations([[0, 1]], [[1]])
    assert read_demonstrations(endless, whole, "likelihood").number == 1
    with pytest.raises(ValueError, match="not terminal, and the horizon is inf"):
        read_demonstrations(endless, whole, "moments")


def test_steps_from_terminal_states_are_padding():
    shown = Demonstrations([[0, 1, 2, 2], [2, 2, 2, 2]], [[1, 1, 0], [0, 0, 0]])
    steps = read_demonstrations(corridor(), shown, "moments")
    assert steps.rows.tolist() == [0, 0]
    assert steps.times.tolist() == [0, 1]
    assert steps.ended.tolist() == [True, True]


def test_actions_that_are_not_there_are_refused():
    model = corridor().replace(action_prior=[0.0, 1.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"takes action up in state .* not available"):
        read_demonstrations(model, Demonstrations([[0, 0, 1, 2]], [[0, 1, 1]]), "likelihood")
