"""Cassandra's `.POMDP` files: every form of a statement against tables written out by hand."""

import re

import pytest
import torch

import cai
from cai.models import TrajectoryModel, read_pomdp

TIGER = """
# The tiger (Kaelbling, Littman and Cassandra 1998).
discount: 0.95
values: reward
states: tiger-left tiger-right
actions: listen open-left open-right
observations: tiger-left tiger-right

T:listen
identity
T:open-left
uniform
T:open-right
uniform

O:listen
0.85 0.15
0.15 0.85
O:open-left
uniform
O:open-right
uniform

R:listen : * : * : * -1
R:open-left : tiger-left : * : * -100
R:open-left : tiger-right : * : * 10
R:open-right : tiger-left : * : * 10
R:open-right : tiger-right : * : * -100
"""


def written(tmp_path, text):
    path = tmp_path / "problem.POMDP"
    path.write_text(text)
    return path


def test_the_tiger(tmp_path):
    mdp, reward, observations, discount = read_pomdp(written(tmp_path, TIGER))
    assert discount == 0.95
    assert mdp.state_names == ("tiger-left", "tiger-right")
    assert mdp.action_names == ("listen", "open-left", "open-right")
    assert mdp.initial.tolist() == [0.5, 0.5]
    assert mdp.transitions[:, 0].tolist() == [[1, 0], [0, 1]]
    assert mdp.transitions[:, 2].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert reward.tolist() == [[-1, -100, 10], [-1, 10, -100]]
    assert observations.probabilities[0].tolist() == [[0.85, 0.15], [0.15, 0.85]]
    assert observations.first is None
    model = TrajectoryModel(mdp, reward=reward, horizon=3, discount=discount)
    assert cai.infer(model, "exact").status.ok


FORMS = """
states: 3
actions: 2
values: cost
discount: 1.0
observations: red green
start include: 0 2
T: 0 : 0 : 1 0.25
T: 0 : 0 : 2 0.75
T: 0 : 1 reset
T: 0 : 2
0 0 1
T: 1 uniform
T: 1 : * : 0 0
T: 1 : * : 1 0.5
T: 1 : * : 2 0.5
O: * : 0
0.2 0.8
O: * : 1 : red 1
O: * : 2 uniform
R: 0 : * : 2 : * 7
R: 1 : 1
1 1
2 2
3 3
R: 1 : 2 : 0
4 4
"""


def test_every_form_of_a_statement(tmp_path):
    mdp, reward, observations, discount = read_pomdp(written(tmp_path, FORMS))
    assert discount == 1
    assert mdp.initial.tolist() == [0.5, 0, 0.5]
    assert mdp.transitions[:, 0].tolist() == [[0, 0.25, 0.75], [0.5, 0, 0.5], [0, 0, 1]]
    assert mdp.transitions[:, 1].tolist() == [[0, 0.5, 0.5]] * 3
    assert observations.probabilities[1].tolist() == [[0.2, 0.8], [1, 0], [0.5, 0.5]]
    assert observations.observation_names == ("red", "green")
    assert reward[:, 0].tolist() == [[0, 0, -7]] * 3
    assert reward[:, 1].tolist() == [[0, 0, 0], [-1, -2, -3], [-4, 0, 0]]


@pytest.mark.parametrize(
    ("start", "want"),
    [
        ("start: 0.25 0.75", [0.25, 0.75]),
        ("start: uniform", [0.5, 0.5]),
        ("start: tiger-right", [0, 1]),
        ("start: 1", [0, 1]),
        ("start exclude: tiger-right", [1, 0]),
        ("start include: tiger-left tiger-right", [0.5, 0.5]),
    ],
)
def test_starts(start, want, tmp_path):
    text = TIGER.replace("T:listen\n", f"{start}\nT:listen\n")
    assert read_pomdp(written(tmp_path, text)).mdp.initial.tolist() == want
    before = text.replace(f"{start}\n", "").replace("states: tiger", f"{start}\nstates: tiger")
    assert read_pomdp(written(tmp_path, before)).mdp.initial.tolist() == want


@pytest.mark.parametrize("start", ["0", "1.0", "1", "uniform", "only"])
def test_the_start_of_a_single_state(start, tmp_path):
    states = "only" if start == "only" else "1"
    text = (
        f"discount: 0.9\nvalues: reward\nstates: {states}\nactions: 1\nobservations: 1\nstart: {start}\nT:*\nidentity\n"
    )
    mdp, _, _, _ = read_pomdp(written(tmp_path, text + "O:*\nuniform\nR: * : * : * : * 2\n"))
    assert mdp.initial.tolist() == [1.0]


def test_rewards_of_the_next_state_and_many_states_are_lists_of_outcomes(tmp_path):
    size = 300
    rows = [f"T: 0 : {s} : {(s + 1) % size} 0.25\nT: 0 : {s} : {s} 0.75" for s in range(size)]
    text = f"states: {size}\nactions: 1\ndiscount: 0.9\n" + "\n".join(rows) + "\nR: 0 : * : 0 3\nR: 0 : 5 : 6 -2\n"
    mdp, reward, observations, _ = read_pomdp(written(tmp_path, text))
    assert observations is None
    assert mdp.num_outcomes == 2
    assert reward.shape == (size, 1, 2)
    dense = torch.zeros(size, 1, size, dtype=torch.float64).scatter_add(-1, mdp.next_states, reward * mdp.probabilities)
    assert float(dense[299, 0, 0]) == 3 * 0.25
    assert float(dense[0, 0, 0]) == 3 * 0.75
    assert float(dense[5, 0, 6]) == -2 * 0.25
    assert int((dense != 0).sum()) == 3


def test_observations_that_tell_no_reward_apart_are_no_obstacle(tmp_path):
    text = TIGER + "R:listen : * : * : tiger-left -1\nR:listen : * : tiger-left : tiger-right -1\n"
    assert read_pomdp(written(tmp_path, text)).reward[:, 0].tolist() == [-1, -1]


def test_how_tables_are_laid_out_is_known(tmp_path, caplog):
    text = "discount: 0.9\nstates: 2\nactions: 2\nT: 0\nidentity\nT: 1\nuniform\nR: 0 : * : * 1\n"
    assert read_pomdp(written(tmp_path, text)).mdp.dense()[0].tolist() == [[1, 0], [0.5, 0.5]]
    assert not caplog.text


def test_old_files_are_read(tmp_path):
    path = written(tmp_path, TIGER)
    path.write_bytes(b"# by M\xfcller\n" + TIGER.encode())
    assert read_pomdp(path).mdp.num_states == 2
    path.write_bytes(TIGER.encode("utf-16"))
    assert read_pomdp(path).mdp.state_names == ("tiger-left", "tiger-right")


REFUSED = {
    "statement that is none": (
        TIGER.replace("observations: tiger-left tiger-right\n", "observations: tiger-left tiger-right\nE: 2\n"),
        "expected one of discount, .*, got 'E'",
    ),
    "states that do not fit": (
        TIGER.replace("states: tiger-left tiger-right", "states: 9000000"),
        "has 9000000 states, and reading it takes about 2,592.0 TB",
    ),
    "states by the billion": (
        TIGER.replace("states: tiger-left tiger-right", f"states: {10**12}"),
        "and reading it takes",
    ),
    "meant": (TIGER.replace("R:listen :", "R:lisen :"), r"did you mean 'listen'\?"),
    "observed reward": (
        TIGER + "R:listen : * : * : tiger-left -2\n",
        "R: listen : tiger-left differs",
    ),
    "row": (TIGER.replace("O:listen\n0.85 0.15", "O:listen\n0.85 0.1"), "O: listen : tiger-left sums to 0.95"),
    "missing row": (TIGER.replace("T:open-left\nuniform\n", ""), "T: open-left : tiger-left sums to 0 "),
    "name": (TIGER.replace("R:listen :", "R:lisen :"), "line 24: 'lisen' is none of the 3 actions"),
    "numbers": (TIGER.replace("0.15 0.85", "0.15"), "line 19: expected 4 numbers, got 'O' as number 4"),
    "preamble": (TIGER.replace("states:", "stats:"), "line 5: expected one of discount, .*got 'stats'"),
    "no actions": (TIGER.replace("actions: listen open-left open-right\n", ""), "no line 'actions:'"),
    "discount": (TIGER.replace("0.95", "1.5"), "discount is 1.5; expected"),
    "start": (TIGER.replace("T:listen\n", "start: 0.5 0.6\nT:listen\n"), "start  0.5 0.6 is no distribution"),
    "end": (TIGER + "R:listen :", "the file ends in the middle"),
    "twice": (TIGER.replace("states: tiger-left tiger-right", "states: a a"), "1 different names among 2"),
    "empty": ("", "no line 'states:'"),
}


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=list(REFUSED))
def test_what_a_file_may_not_say(text, said, tmp_path):
    with pytest.raises(ValueError, match=said) as stop:
        read_pomdp(written(tmp_path, text))
    assert re.search(r"problem\.POMDP", str(stop.value))
