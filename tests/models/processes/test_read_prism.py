"""Explicit files of PRISM and Storm against tables written out by hand."""

import pytest

import cai
from cai.models import TrajectoryModel, read_prism

FILES = {
    ".tra": "3 4 6\n0 0 1 0.5 safe\n0 0 0 0.5 safe\n0 1 2 1 risky\n1 0 2 0.25 safe\n1 0 1 0.75 safe\n2 0 2 1 safe\n",
    ".sta": "(x,done)\n0:(0,false)\n1:(1,false)\n2:(2,true)\n",
    ".lab": '0="init" 1="deadlock" 2="done"\n0: 0\n2: 2 1\n',
    ".srew": '# Reward structure "time"\n# State rewards\n3 2\n0 1\n1 1.5\n',
    ".trew": '# Reward structure "time"\n3 4 6\n0 1 2 10\n',
}


def written(folder, files, stem="model"):
    for ending, text in files.items():
        (folder / f"{stem}{ending}").write_text(text)
    return folder / stem


def test_what_prism_exports(tmp_path):
    mdp, rewards, labels = read_prism(written(tmp_path, FILES))
    assert mdp.state_names == ("x=0 done=false", "x=1 done=false", "x=2 done=true")
    assert mdp.action_names == ("safe", "risky")
    assert mdp.available.tolist() == [[True, True], [True, False], [True, False]]
    assert mdp.dense()[0].tolist() == [[0.5, 0.5, 0], [0, 0, 1]]
    assert mdp.dense()[1, 0].tolist() == [0, 0.75, 0.25]
    assert mdp.initial.tolist() == [1, 0, 0]
    assert list(rewards) == ["time"]
    assert rewards["time"][0].tolist() == [1, 11]
    assert float(rewards["time"][1, 0]) == 1.5
    assert labels["done"].tolist() == [False, False, True]
    assert labels["deadlock"].tolist() == [False, False, True]
    assert mdp.states("done").tolist() == [False, False, True]
    model = TrajectoryModel(mdp, reward=rewards["time"], horizon=4)
    assert cai.infer(model, "variational").status.ok
    assert read_prism(tmp_path / "model.tra").mdp.num_states == 3


def test_rewards_of_one_outcome_and_several_structures(tmp_path):
    files = {
        ".tra": FILES[".tra"],
        "1.srew": "3 1\n2 7\n",
        "2.trew": '# Reward structure "fall"\n3 4 6\n1 0 2 -4\n',
    }
    mdp, rewards, labels = read_prism(written(tmp_path, files))
    assert labels == {}
    assert mdp.state_names is None
    assert list(rewards) == ["1", "fall"]
    assert rewards["1"].tolist() == [[0, 0], [0, rewards["1"][1, 1].item()], [7, rewards["1"][2, 1].item()]]
    falls = (rewards["fall"][1, 0] * mdp.probabilities[1, 0]).sum()
    assert rewards["fall"].dim() == 3
    assert float(falls) == -4 * 0.25


def test_a_markov_chain(tmp_path):
    files = {".tra": "2 3\n0 1 0.25\n0 0 0.75\n1 1 1\n", ".trew": "2 1\n0 1 3\n"}
    mdp, rewards, _ = read_prism(written(tmp_path, files))
    assert mdp.num_actions == 1
    assert mdp.dense()[:, 0].tolist() == [[0.75, 0.25], [0, 1]]
    assert float((rewards["reward"] * mdp.probabilities).sum()) == 0.75


def test_what_storm_takes(tmp_path):
    files = {
        ".tra": "mdp\n0 0 1 0.5\n0 0 0 0.5\n0 1 1 1\n1 0 1 1\n",
        ".lab": "#DECLARATION\ninit goal far\n#END\n0 init\n1 goal\n",
        ".state.rew": "0 2\n",
        ".trans.rew": "0 1 1 5\n",
    }
    mdp, rewards, labels = read_prism(written(tmp_path, files))
    assert mdp.action_names == ("0", "1")
    assert mdp.dense()[0].tolist() == [[0.5, 0.5], [0, 1]]
    assert rewards["reward"][0].tolist() == [2, 7]
    assert labels["far"].tolist() == [False, False]


def test_actions_of_a_chain_are_no_choices(tmp_path):
    """PRISM writes the labels of transitions of a chain behind their probabilities; exact engines write quotients."""
    mdp, _, _ = read_prism(written(tmp_path, {".tra": "2 3\n0 1 1/4 go\n0 0 3/4 stay\n1 1 1 stay\n"}))
    assert mdp.num_actions == 1
    assert mdp.dense()[:, 0].tolist() == [[0.75, 0.25], [0, 1]]


REFUSED = {
    "states that are announced": ({".tra": "9000000000 1\n0 0 1\n"}, "state 1 has no transition"),
    "choices by the million": (
        {".tra": f"2 2 2\n0 0 1 1\n1 {10**12} 1 1\n"},
        r"A = 1,000,000,000,001 choices; that takes about .* TB",
    ),
    "a head of other numbers": ({".tra": "2 2.5\n0 1 1\n1 1 1\n"}, "model.tra, line 1: expected the numbers of states"),
    "one name for two states": (FILES | {".sta": "(x)\n0:(0)\n1:(0)\n2:(1)\n"}, "model.sta gives two states .* 'x=0'"),
    "cut off": ({".tra": "2 4\n0 1 0.5\n0 0 0.5\n1 1 1\n"}, "holds 3 transitions, and its first line announces 4"),
    "no number": ({".tra": "2 2\n0 1 nan\n1 1 1\n"}, "model.tra: choice 0 of state 0 sums to nan"),
    "no fraction": ({".tra": "2 2\n0 1 1/0\n1 1 1\n"}, "line 2: expected SOURCE TARGET PROBABILITY, got '0 1 1/0'"),
    "infinite reward": (FILES | {".srew": "3 1\n0 Infinity\n"}, "line 2: the reward is inf"),
    "sum": ({".tra": "2 2 3\n0 0 1 0.5\n0 0 0 0.4\n1 0 1 1\n"}, "choice 0 of state 0 sums to 0.9"),
    "rates": ({".tra": "ctmc\n0 1 3\n1 0 2\n"}, "is of kind 'ctmc'"),
    "interval": ({".tra": "2 2 2\n0 0 1 [0.2,0.3]\n1 0 1 1\n"}, r"line 2: expected SOURCE CHOICE TARGET.*got '0 0 1 "),
    "size": ({".tra": "2 2 2\n0 0 5 1\n1 0 1 1\n"}, "leads to state 5, and its first line announces 2 states"),
    "no transition": ({".tra": "2 1 1\n0 0 1 1 a\n"}, "state 1 has no transition"),
    "empty": ({".tra": "2 0 0\n"}, "holds no transitions"),
    "label": (FILES | {".lab": '0="init"\n0: 1\n'}, "'0: 1' is no line of labels"),
    "no init": (FILES | {".lab": '0="init"\n'}, "gives no state the label 'init'"),
    "states": (FILES | {".sta": "(x)\n0:(0)\n1:(1)\n"}, "names 2 of 3 states; state 2 is missing"),
    "state number": (FILES | {".sta": "(x)\n0:(0)\n9:(1)\n"}, "names no state"),
    "reward": (FILES | {".srew": "3 1\n0 much\n"}, "line 2: expected STATE REWARD"),
    "reward state": (FILES | {".srew": "3 1\n7 1\n"}, "there is no state 7"),
    "reward transition": (FILES | {".trew": "3 4 6\n1 1 2 1\n"}, "the model has no transition 1 1 2"),
}


@pytest.mark.parametrize(("files", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_the_files_may_not_say(files, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        read_prism(written(tmp_path, files))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="export the model with its transitions"):
        read_prism(tmp_path / "nothing")
