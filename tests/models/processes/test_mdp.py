"""MDP: dense tables and successor lists mean the same process, and every way to name states works."""

import dataclasses

import numpy as np
import pytest
import torch

from cai.inference import infer
from cai.models import MDP, GridLayout, StepCost, TrajectoryModel
from cai.models.processes.parts import leaving_probability

S, A, K = 4, 2, 3
# Two outcomes of (0, 1) lead to state 2, and (1, 0) lists state 1 three times.
NEXT = [[[0, 1, 3], [2, 1, 2]], [[1, 1, 1], [0, 2, 3]], [[3, 2, 0], [1, 3, 2]], [[3, 0, 1], [3, 3, 2]]]
WEIGHTS = [
    [[0.5, 0.25, 0.25], [0.1, 0.6, 0.3]],
    [[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]],
    [[0.4, 0.4, 0.2], [0.25, 0.5, 0.25]],
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]],
]
START = [0.5, 0.25, 0.25, 0.0]


def table():
    """[S, A, S] of the lists above, added up one by one."""
    result = torch.zeros(S, A, S, dtype=torch.float64)
    for s in range(S):
        for a in range(A):
            for k in range(K):
                result[s, a, NEXT[s][a][k]] += WEIGHTS[s][a][k]
    return result


def dense(**options):
    return MDP(table(), START, **options)


def listed(**options):
    return MDP.from_successors(NEXT, WEIGHTS, START, **options)


# ---- dense and listed --------------------------------------------------------------------------------------------


def test_lists_give_the_dense_table():
    torch.testing.assert_close(listed().dense(), dense().dense(), rtol=0, atol=1e-15)


def test_sizes():
    assert (dense().num_states, dense().num_actions, dense().num_outcomes, dense().is_dense) == (S, A, S, True)
    assert (listed().num_states, listed().num_actions, listed().num_outcomes, listed().is_dense) == (S, A, K, False)


def test_lists_keep_no_dense_table():
    process = listed()
    assert process.transitions is None
    assert process.next_states.dtype == torch.int64
    assert process.next_states.tolist() == NEXT
    torch.testing.assert_close(process.probabilities, torch.tensor(WEIGHTS, dtype=torch.float64), rtol=0, atol=1e-15)


def test_dense_has_no_lists():
    process = dense()
    assert process.next_states is None
    assert torch.equal(process.transitions, process.probabilities)
    assert process.successors().tolist() == [[[0, 1, 2, 3]]]


@pytest.mark.parametrize("backend", ["exact", "variational"])
def test_dense_and_lists_have_the_same_answer(backend):
    reward = torch.linspace(-1.0, 1.0, S * A, dtype=torch.float64).reshape(S, A)
    first, second = (infer(TrajectoryModel(p, reward, horizon=3, discount=0.9), backend) for p in (dense(), listed()))
    torch.testing.assert_close(first.values, second.values, rtol=0, atol=1e-12)
    torch.testing.assert_close(first.action_probs, second.action_probs, rtol=0, atol=1e-12)
    torch.testing.assert_close(first.state_marginals, second.state_marginals, rtol=0, atol=1e-12)
    torch.testing.assert_close(first.dynamics(1), second.dynamics(1), rtol=0, atol=1e-12)


def test_equal_next_states_add_up():
    process = MDP.from_successors([[[0, 0, 1]], [[1, 1, 1]]], [[[0.25, 0.25, 0.5]], [[0.5, 0.3, 0.2]]], [1.0, 0.0])
    torch.testing.assert_close(process.dense(), torch.tensor([[[0.5, 0.5]], [[0.0, 1.0]]]).double(), rtol=0, atol=1e-15)


def test_ragged_lists_are_padded_with_the_state_itself():
    process = MDP.from_successors([[[1], [0, 1]], [[1], [1]]], [[[1.0], [0.25, 0.75]], [[1.0], [1.0]]], [1.0, 0.0])
    assert process.next_states.tolist() == [[[1, 0], [0, 1]], [[1, 1], [1, 1]]]
    assert process.probabilities.tolist() == [[[1.0, 0.0], [0.25, 0.75]], [[1.0, 0.0], [1.0, 0.0]]]


def test_arrays_and_tensors_of_successors_are_taken_too():
    arrays = MDP.from_successors(np.array(NEXT, dtype=np.int32), np.array(WEIGHTS), np.array(START))
    tensors = MDP.from_successors(torch.tensor(NEXT), torch.tensor(WEIGHTS, dtype=torch.float64), torch.tensor(START))
    for process in (arrays, tensors):
        assert torch.equal(process.next_states, listed().next_states)
        torch.testing.assert_close(process.probabilities, listed().probabilities, rtol=0, atol=1e-15)


# ---- what goes in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor, lambda t: t.tolist(), lambda t: t.numpy().tolist()])
def test_tables_come_as_arrays_tensors_or_lists(convert):
    process = MDP(convert(table()), convert(torch.tensor(START).double()))
    assert process.probabilities.dtype == process.initial.dtype == torch.float64
    torch.testing.assert_close(process.dense(), table(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_short_floats_are_normalised_in_float64(dtype):
    rows = np.array([[[1 / 3, 1 / 3, 1 / 3]]] * 3, dtype=dtype)
    process = MDP(rows, np.array([0.1, 0.2, 0.7], dtype=dtype))
    assert process.probabilities.dtype == torch.float64
    torch.testing.assert_close(process.dense().sum(-1), torch.ones(3, 1).double(), rtol=0, atol=1e-15)
    assert float(process.initial.sum()) == pytest.approx(1, abs=1e-15)


def test_float32_tensor_is_normalised_in_float64():
    process = MDP(table().float(), torch.tensor(START))
    torch.testing.assert_close(process.dense(), table(), rtol=0, atol=1e-7)
    torch.testing.assert_close(process.dense().sum(-1), torch.ones(S, A).double(), rtol=0, atol=1e-15)


def test_whole_numbers_are_probabilities():
    process = MDP([[[0, 1]], [[1, 0]]], [1, 0])
    assert process.dense().tolist() == [[[0.0, 1.0]], [[1.0, 0.0]]]


def test_zeros_stay_zero():
    assert torch.equal(listed().dense() == 0, table() == 0)


def test_gradients_reach_the_transitions():
    logits = torch.zeros(3, 2, 3, dtype=torch.float64, requires_grad=True)
    process = MDP(logits.softmax(-1), [1.0, 0.0, 0.0])
    infer(TrajectoryModel(process, torch.tensor([0.0, -1.0, -2.0]), horizon=2), "exact").log_evidence.backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("what", ["transitions", "initial", "available"])
def test_a_dense_process_does_not_change_with_its_inputs(what):
    given = {"transitions": table().numpy(), "initial": np.array(START), "available": np.ones((S, A), dtype=bool)}
    process = MDP(**given)
    before = getattr(process, what).clone()
    given[what][0] = 0
    assert torch.equal(getattr(process, what), before)


@pytest.mark.parametrize("what", ["next_states", "probabilities"])
def test_a_listed_process_does_not_change_with_its_inputs(what):
    given = {"next_states": torch.tensor(NEXT), "probabilities": torch.tensor(WEIGHTS, dtype=torch.float64)}
    process = MDP.from_successors(**given, initial=START)
    before = getattr(process, what).clone()
    given[what][0] = 0
    assert torch.equal(getattr(process, what), before)


def test_a_terminal_mask_is_copied():
    mask = torch.tensor([False, True])
    process = MDP([[[0, 1]], [[0, 1]]], [1, 0], terminal=mask)
    mask[1] = False
    assert process.terminal.tolist() == [False, True]


def test_a_process_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        dense().initial = torch.ones(S)


# ---- available actions -------------------------------------------------------------------------------------------


def zero_row():
    available = torch.ones(S, A, dtype=torch.bool)
    available[1, 0] = False
    return available


def test_all_actions_are_available_unless_said_otherwise():
    assert dense().available.all()
    assert dense().available.shape == (S, A)


def test_dense_zero_row_of_an_unavailable_action_stays():
    rows = table()
    rows[1, 0] = 0
    process = MDP(rows, START, available=zero_row())
    assert process.dense()[1, 0].tolist() == [0.0, 1.0, 0.0, 0.0]
    torch.testing.assert_close(process.dense()[[0, 2, 3]], table()[[0, 2, 3]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("row", [[], [0.0, 0.0]])
def test_listed_zero_row_of_an_unavailable_action_stays(row):
    process = MDP.from_successors(
        [[[1, 0], [0, 1]], [[0] * len(row), [0, 1]]],
        [[[0.5, 0.5], [1.0, 0.0]], [row, [0.5, 0.5]]],
        [1.0, 0.0],
        available=[[True, True], [False, True]],
    )
    assert process.dense()[1, 0].tolist() == [0.0, 1.0]
    assert process.dense()[1, 1].tolist() == [0.5, 0.5]


def test_unavailable_actions_are_never_taken():
    rows = table()
    rows[1, 0] = 0
    model = TrajectoryModel(MDP(rows, START, available=zero_row()), StepCost(1.0), horizon=2)
    assert model.action_prior[1].tolist() == [0.0, 1.0]
    for backend in ("exact", "variational", "enumeration"):
        assert (infer(model, backend).action_probs[:, 1, 0] == 0).all()


def test_an_unavailable_action_may_leave_a_terminal_state():
    rows = [[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]]
    process = MDP(rows, [1, 0], available=[[True, True], [True, False]], terminal=[1])
    assert process.terminal.tolist() == [False, True]


# ---- states by mask, index and name ------------------------------------------------------------------------------

NAMES = ["start", "left", "right", "end"]
STATES = [
    [3],
    3,
    np.int64(3),
    np.array([3]),
    torch.tensor(3),
    torch.tensor([3]),
    "end",
    ["end"],
    [False, False, False, True],
    (False, False, False, True),
    np.array([False, False, False, True]),
    torch.tensor([False, False, False, True]),
    range(3, 4),
    {3},
]


def absorbing():
    rows = table()
    rows[3] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    return rows


@pytest.mark.parametrize("states", STATES, ids=repr)
def test_terminal_states(states):
    process = MDP(absorbing(), START, terminal=states, state_names=NAMES)
    assert process.terminal.dtype == torch.bool
    assert process.terminal.tolist() == [False, False, False, True]


@pytest.mark.parametrize("states", STATES, ids=repr)
def test_regions_and_states(states):
    process = dense(state_names=NAMES, regions={"exit": states})
    assert process.regions["exit"].tolist() == [False, False, False, True]
    assert process.states(states).tolist() == [False, False, False, True]


def test_several_states():
    process = dense(state_names=NAMES)
    for states in (["start", "right"], [0, 2], [0, "right"], np.array([2, 0]), [True, False, True, False]):
        assert process.states(states).tolist() == [True, False, True, False]


@pytest.mark.parametrize("nothing", [None, [], np.zeros(S, dtype=bool)], ids=repr)
def test_no_terminal_states(nothing):
    assert not dense(terminal=nothing).terminal.any()


def test_terminal_lists():
    nexts, weights = [*NEXT[:3], [[3, 3, 3], [3, 0, 3]]], [*WEIGHTS[:3], [[0.5, 0.25, 0.25], [0.5, 0.0, 0.5]]]
    process = MDP.from_successors(nexts, weights, START, terminal=[3])
    assert process.terminal.tolist() == [False, False, False, True]


def test_names_and_numbers():
    process = dense(state_names=NAMES, action_names=["stay", "go"])
    assert (process.state_name(3), process.action_name(1)) == ("end", "go")
    assert (dense().state_name(3), dense().action_name(1)) == ("3", "1")
    assert process.state_names == tuple(NAMES)


def test_layout_is_kept():
    layout = GridLayout(2, 2, ((0, 0), (0, 1), (1, 0), None), ((0, 1), None), ("S", "", "", ""))
    assert listed(layout=layout).layout is layout


# ---- reading and adding up over outcomes ------------------------------------------------------------------------


@pytest.mark.parametrize("build", [dense, listed])
def test_gather_against_a_loop(build):
    process = build()
    values = torch.tensor([1.0, -2.0, 4.0, 8.0]).double()
    found = process.gather(values).expand(process.probabilities.shape)
    following = process.successors().expand(process.probabilities.shape)
    for s in range(S):
        for a in range(A):
            for k in range(process.num_outcomes):
                s_next = k if process.is_dense else NEXT[s][a][k]
                assert following[s, a, k] == s_next
                assert found[s, a, k] == values[s_next]


@pytest.mark.parametrize("build", [dense, listed])
def test_scatter_against_a_loop(build):
    process = build()
    weights = torch.arange(S * A * process.num_outcomes).double().reshape(process.probabilities.shape)
    expected = torch.zeros(S).double()
    for s in range(S):
        for a in range(A):
            for k in range(process.num_outcomes):
                expected[k if process.is_dense else NEXT[s][a][k]] += weights[s, a, k]
    assert torch.equal(process.scatter(weights), expected)


@pytest.mark.parametrize("build", [dense, listed])
def test_to_next_states_against_a_loop(build):
    process = build()
    weights = torch.arange(S * A * process.num_outcomes).double().reshape(process.probabilities.shape)
    expected = torch.zeros(S, A, S).double()
    for s in range(S):
        for a in range(A):
            for k in range(process.num_outcomes):
                expected[s, a, k if process.is_dense else NEXT[s][a][k]] += weights[s, a, k]
    assert torch.equal(process.to_next_states(weights), expected)


def test_expected_next_value_is_the_same_dense_and_listed():
    values = torch.tensor([1.0, -2.0, 4.0, 8.0]).double()
    first, second = ((p.probabilities * p.gather(values)).sum(-1) for p in (dense(), listed()))
    torch.testing.assert_close(first, second, rtol=0, atol=1e-14)


def test_probability_is_conserved_by_scatter():
    for process in (dense(), listed()):
        joint = process.initial[:, None, None] * process.probabilities / A
        torch.testing.assert_close(
            process.scatter(joint), (table() * process.initial[:, None, None]).sum((0, 1)) / A, rtol=0, atol=1e-15
        )


def test_names_lead_to_numbers():
    process = MDP([[[0.0, 1.0]], [[1.0, 0.0]]], [1.0, 0.0], state_names=["here", "there"], action_names=["go"])
    assert process.state_index("there") == 1
    assert process.action_index("go") == 0
    with pytest.raises(ValueError, match=r"no state is called 'nowhere'.*here, there"):
        process.state_index("nowhere")
    with pytest.raises(ValueError, match="no action names"):
        MDP([[[1.0]]], [1.0]).action_index("go")


# ---- large processes ---------------------------------------------------------------------------------------------


def leaving(process):
    """[S], the largest probability of leaving a terminal state, in plain loops."""
    result = [0.0] * process.num_states
    table = process.dense()
    for s in range(process.num_states):
        if process.terminal[s]:
            ways = [a for a in range(process.num_actions) if process.available[s, a]]
            result[s] = max(1.0 - float(table[s, a, s]) for a in ways)
    return result


@pytest.mark.parametrize("build", [dense, listed])
@pytest.mark.parametrize("state", range(S - 1))  # the last one does stay
def test_a_terminal_state_that_can_be_left_is_named(build, state):
    process = build()
    object.__setattr__(process, "terminal", torch.arange(S) == state)
    most = leaving(process)[state]
    assert leaving_probability(process).tolist() == pytest.approx(leaving(process), abs=1e-15)
    with pytest.raises(ValueError, match=f"terminal state {state} can be left .with probability up to {most:.3g}"):
        build(terminal=[state])


def test_half_of_many_states_may_be_terminal():
    # Loops in Python over states or rows would show here; [S, A, S] would not fit into memory.
    size, generator = 200_000, np.random.default_rng(0)
    following = generator.integers(0, size, (size, 2, 2))
    following[size // 2 :] = np.arange(size // 2, size)[:, None, None]
    process = MDP.from_successors(
        following, np.full(following.shape, 0.5), np.full(size, 1 / size), terminal=np.arange(size // 2, size)
    )
    assert int(process.terminal.sum()) == size - size // 2
    reward = -generator.random((size, 2))
    with pytest.raises(ValueError, match=f"in terminal state {size // 2};"):
        TrajectoryModel(process, reward)
    reward[size // 2 :] = 0
    model = TrajectoryModel(process, reward)
    assert torch.equal(model.reward_table(0)[..., 0], torch.from_numpy(reward))
    assert model.reward_table(0).shape == (size, 2, 1)


def test_rows_that_sum_to_one_are_kept_as_they_are():
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    process = MDP.from_successors(NEXT, weights, START)
    again = MDP.from_successors(NEXT, process.probabilities, process.initial)
    assert torch.equal(again.probabilities, process.probabilities)
    assert torch.equal(again.initial, process.initial)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_states_given_twice_or_outside_are_refused(kind):
    with pytest.raises(ValueError, match="state 3 is given twice"):
        dense().states(kind([3, 1, 3]))
    with pytest.raises(ValueError, match="state 4 does not exist; states are 0 to 3"):
        dense().states(kind([0, 4]))
