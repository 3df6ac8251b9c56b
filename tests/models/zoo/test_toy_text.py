"""Gymnasium's transition tables: what becomes terminal, what is paid, and the process simulated by hand."""

import functools
import math
import random

import gymnasium
import numpy as np
import pytest
import torch

from cai import Policy, TrajectoryModel, evaluate, infer
from cai.models import from_gymnasium, gymnasium_model, inspect_program
from cai.models.rewards.tables import OutcomeReward, TableReward

Z = 6.0  # standard errors

ENVIRONMENTS = {
    "lake": ("FrozenLake-v1", {}),
    "firm lake": ("FrozenLake-v1", {"is_slippery": False}),
    "cliff": ("CliffWalking-v1", {}),
    "slippery cliff": ("CliffWalking-v1", {"is_slippery": True}),
    "taxi": ("Taxi-v4", {}),
}


class Table:
    """The least that an environment with a transition table has: P[s][a] = [(p, s', r, terminated), ...]."""

    spec = None

    def __init__(self, *rows, start=(1.0,)):
        self.P = {state: dict(enumerate(actions)) for state, actions in enumerate(rows)}
        self.initial_state_distrib = np.array([*start, *[0.0] * (len(rows) - len(start))])

    @property
    def unwrapped(self):
        return self


def stay(state, *, terminated=True):
    return [(1.0, state, 0.0, terminated)]


@functools.cache
def environment(name):
    identifier, options = ENVIRONMENTS[name]
    return gymnasium.make(identifier, **options)


# ---- terminal states ---------------------------------------------------------------------------------------------


def test_state_entered_only_by_termination_becomes_terminal():
    mdp, _ = from_gymnasium(Table([[(1.0, 1, 5.0, True)]], [stay(1)]))
    assert mdp.num_states == 2
    assert mdp.terminal.tolist() == [False, True]
    assert mdp.dense()[:, 0].tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_state_entered_both_ways_stays_and_a_sink_is_added():
    both = [(0.5, 1, 5.0, True), (0.5, 1, 2.0, False)]
    mdp, _ = from_gymnasium(Table([both], [[(1.0, 0, 0.0, False)]]))
    assert mdp.num_states == 3
    assert mdp.terminal.tolist() == [False, False, True]
    assert mdp.dense()[:, 0].tolist() == [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_the_sink_has_a_name_and_a_region():
    mdp, _ = from_gymnasium(Table([[(1.0, 0, 5.0, True)]]))
    assert mdp.state_names == ("0", "terminated")
    assert mdp.regions["terminated"].tolist() == [False, True]


def test_initial_state_counts_as_ordinarily_entered():
    entered = [(0.5, 1, 1.0, True), (0.5, 0, 0.0, False)]
    mdp, _ = from_gymnasium(Table([entered], [[(1.0, 0, 0.0, False)]], start=(0.5, 0.5)))
    assert mdp.num_states == 3
    assert mdp.terminal.tolist() == [False, False, True]
    assert mdp.initial.tolist() == [0.5, 0.5, 0.0]
    assert mdp.dense()[0, 0].tolist() == [0.5, 0.0, 0.5]
    assert mdp.dense()[1, 0].tolist() == [1.0, 0.0, 0.0]


def test_initial_state_that_ends_on_itself_gets_a_sink():
    mdp, _ = from_gymnasium(Table([[(1.0, 0, 1.0, True)]]))
    assert mdp.terminal.tolist() == [False, True]
    assert mdp.dense()[0, 0].tolist() == [0.0, 1.0]


def test_self_loop_after_the_end_is_no_ordinary_entry():
    # once entered by termination a state may lead to itself without the flag, as Gymnasium's own tables do
    mdp, _ = from_gymnasium(Table([[(1.0, 1, 5.0, True)]], [stay(1, terminated=False)]))
    assert mdp.terminal.tolist() == [False, True]


def test_entry_with_probability_zero_does_not_count():
    rows = [[(1.0, 1, 5.0, True), (0.0, 1, 0.0, False)]], [stay(1)]
    mdp, _ = from_gymnasium(Table(*rows))
    assert mdp.num_states == 2
    assert mdp.terminal.tolist() == [False, True]


def test_ordinary_entry_by_another_action_counts():
    mdp, _ = from_gymnasium(Table([[(1.0, 1, 5.0, True)], [(1.0, 1, 0.0, False)]], [stay(1)] * 2))
    assert mdp.num_states == 3
    assert mdp.terminal.tolist() == [False, False, True]
    assert mdp.dense()[0].tolist() == [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_terminal_and_sink_together():
    rows = ([(1.0, 1, 0.0, True)], [(1.0, 2, 0.0, True)], [(1.0, 2, 0.0, False)])
    mdp, _ = from_gymnasium(Table(rows, [stay(1)] * 3, [[(1.0, 0, 0.0, False)]] * 3))
    assert mdp.num_states == 4
    assert mdp.terminal.tolist() == [False, True, False, True]
    assert mdp.dense()[0].tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]


def test_nothing_ends():
    mdp, _ = from_gymnasium(Table([[(1.0, 1, 0.0, False)]], [[(1.0, 0, 0.0, False)]]))
    assert mdp.num_states == 2
    assert not mdp.terminal.any()


@pytest.mark.parametrize(("name", "states", "terminal"), [
    ("lake", 16, [5, 7, 11, 12, 15]), ("firm lake", 16, [5, 7, 11, 12, 15]), ("cliff", 48, [47]),
    ("slippery cliff", 48, [47]), ("taxi", 501, [500]),
])  # fmt: skip
def test_terminal_states_of_gymnasium_s_own(name, states, terminal):
    mdp, _ = from_gymnasium(environment(name))
    assert mdp.num_states == states
    assert torch.nonzero(mdp.terminal).flatten().tolist() == terminal


# ---- rewards -----------------------------------------------------------------------------------------------------


def test_reward_is_paid_on_the_transition_that_ends():
    mdp, reward = from_gymnasium(Table([[(1.0, 1, 5.0, True)]], [[(1.0, 1, 3.0, True)]]))
    model = TrajectoryModel(mdp, reward, horizon=4)
    outcome = evaluate(Policy([[1.0], [1.0]]), model, num_rollouts=2)
    assert outcome.expected_return == 5.0  # once; what P pays after the end is never seen


def test_rewards_that_outcomes_share_are_a_table():
    _, reward = from_gymnasium(Table([[(0.5, 0, 2.0, False), (0.5, 1, 2.0, True)]], [stay(1)]))
    assert isinstance(reward, TableReward)
    assert reward.table.tolist() == [[2.0], [0.0]]


def test_rewards_that_differ_are_one_for_each_outcome():
    _, reward = from_gymnasium(Table([[(0.5, 0, -1.0, False), (0.5, 1, 2.0, True)]], [stay(1)]))
    assert isinstance(reward, OutcomeReward)
    assert sorted(reward.table[0, 0].tolist()) == [-1.0, 2.0]


def test_equal_outcomes_add_up():
    row = [(0.25, 1, 1.0, True), (0.5, 0, 1.0, False), (0.25, 1, 1.0, True)]
    mdp, _ = from_gymnasium(Table([row], [stay(1)]))
    assert mdp.num_outcomes == 2
    assert sorted(mdp.probabilities[0, 0].tolist()) == [0.5, 0.5]


def test_outcomes_with_the_same_next_state_and_other_rewards_stay_apart():
    row = [(0.25, 1, 1.0, False), (0.25, 1, -3.0, False), (0.5, 1, 1.0, False)]
    mdp, reward = from_gymnasium(Table([row], [[(1.0, 0, 0.0, False)]]))
    found = {float(reward.table[0, 0, k]): float(p) for k, p in enumerate(mdp.probabilities[0, 0].tolist()) if p > 0}
    assert found == {1.0: 0.75, -3.0: 0.25}
    assert mdp.dense()[0, 0].tolist() == [0.0, 1.0]


def test_model_with_such_outcomes_has_sites_for_them():
    row = [(0.75, 1, 1.0, False), (0.25, 1, -3.0, False)]
    model = gymnasium_model(Table([row], [[(1.0, 0, 0.0, False)]]), horizon=3, temperature=1.0)
    assert model.has_outcome_sites
    assert inspect_program(model).further == ("k_1", "k_2", "k_3")
    evidence = math.log(0.75 * math.e + 0.25 * math.exp(-3))
    for backend in ("exact", "enumeration"):  # steps 1 and 3 draw, step 2 pays nothing
        assert float(infer(model, backend).log_evidence) == pytest.approx(2 * evidence, abs=1e-12)


def test_slippery_cliff_has_outcome_sites():
    table = environment("slippery cliff").unwrapped.P
    rewards = {(int(n), r) for _, n, r, _ in table[36][0]}
    assert {(36, -1), (36, -100)} <= rewards  # the premise: one next state, two rewards
    model = gymnasium_model(environment("slippery cliff"), horizon=2)
    assert model.has_outcome_sites
    assert inspect_program(model).further == ("k_1", "k_2")


@pytest.mark.parametrize("name", ["lake", "firm lake", "cliff", "taxi"])
def test_the_others_need_no_outcome_sites(name):
    assert not gymnasium_model(environment(name), horizon=2).has_outcome_sites


# ---- by hand -----------------------------------------------------------------------------------------------------


def random_policy(num_states, num_actions, seed=0):
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand(num_states, num_actions, generator=generator, dtype=torch.float64) + 0.1
    return table / table.sum(-1, keepdim=True)


def padded(policy, model):
    """The same policy with a row for an added absorbing state."""
    extra = model.mdp.num_states - len(policy)
    rest = torch.full((extra, policy.shape[1]), 1.0 / policy.shape[1], dtype=torch.float64)
    return Policy(torch.cat([policy, rest]))


def value_by_hand(base, policy, horizon):
    """The expected return of a policy, from the table as Gymnasium's `step` reads it: a terminated episode is over."""
    values = [0.0] * len(base.P)
    for _ in range(horizon):
        values = [
            math.fsum(
                float(policy[s, a]) * p * (r + (0.0 if over else values[n]))
                for a, outcomes in actions.items()
                for p, n, r, over in outcomes
            )
            for s, actions in base.P.items()
        ]
    return math.fsum(p * value for p, value in zip(base.initial_state_distrib, values, strict=True))


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_expected_return_by_hand(name):
    base = environment(name).unwrapped
    policy = random_policy(len(base.P), len(base.P[0]))
    model = gymnasium_model(environment(name), horizon=12)
    outcome = evaluate(padded(policy, model), model, num_rollouts=2)
    assert outcome.expected_return == pytest.approx(value_by_hand(base, policy, 12), abs=1e-9)


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(Table([[(0.5, 1, 5.0, True), (0.5, 1, 2.0, False)]], [[(1.0, 0, -1.0, False)]]), id="both ways"),
        pytest.param(
            Table([[(0.5, 1, 1.0, True), (0.5, 0, 0.3, False)]], [[(1.0, 0, -2.0, False)]], start=(0.5, 0.5)),
            id="start",
        ),
        pytest.param(Table([[(0.3, 0, 1.0, True), (0.7, 0, -1.0, False)]]), id="itself"),
        pytest.param(Table([[(0.2, 1, 1.0, True), (0.8, 0, -1.0, False)]], [stay(1, terminated=False)]), id="terminal"),
    ],
)
@pytest.mark.parametrize("horizon", [1, 2, 7])
def test_expected_return_of_small_tables_by_hand(table, horizon):
    policy = torch.ones(len(table.P), 1, dtype=torch.float64)
    model = gymnasium_model(table, horizon=horizon)
    outcome = evaluate(padded(policy, model), model, num_rollouts=2)
    assert outcome.expected_return == pytest.approx(value_by_hand(table, policy, horizon), abs=1e-12)


@pytest.mark.parametrize("name", ["lake", "slippery cliff"])
def test_simulated_by_hand(name):
    base, source, horizon, episodes = environment(name).unwrapped, random.Random(0), 12, 3000
    policy = random_policy(len(base.P), len(base.P[0]))
    rows = policy.tolist()
    returns = []
    for _ in range(episodes):
        state, total = int(source.choices(range(len(base.P)), base.initial_state_distrib)[0]), 0.0
        for _ in range(horizon):
            outcomes = base.P[state][source.choices(range(len(rows[state])), rows[state])[0]]
            _, state, reward, over = source.choices(outcomes, [outcome[0] for outcome in outcomes])[0]
            total += reward
            if over:
                break
        returns.append(total)
    model = gymnasium_model(environment(name), horizon=horizon)
    expected = evaluate(padded(policy, model), model, num_rollouts=2).expected_return
    mean = sum(returns) / episodes
    spread = math.sqrt(sum((total - mean) ** 2 for total in returns) / (episodes - 1))
    assert abs(mean - expected) <= Z * spread / math.sqrt(episodes)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_start_is_the_environment_s(name):
    mdp, _ = from_gymnasium(environment(name))
    start = np.asarray(environment(name).unwrapped.initial_state_distrib, dtype=np.float64)
    assert mdp.initial[: len(start)].tolist() == pytest.approx((start / start.sum()).tolist(), abs=1e-15)
    assert float(mdp.initial[len(start) :].sum()) == 0.0


# ---- models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "horizon"), [("lake", 100), ("cliff", 100), ("taxi", 200)])
def test_horizon_is_the_environment_s_limit(name, horizon):
    model = gymnasium_model(environment(name))
    assert (model.horizon, model.name) == (horizon, ENVIRONMENTS[name][0])


def test_options_of_the_model_and_of_the_environment():
    model = gymnasium_model("FrozenLake-v1", horizon=3, temperature=2.0, discount=0.9, map_name="8x8")
    assert (model.horizon, model.temperature, model.discount, model.mdp.num_states) == (3, 2.0, 0.9, 64)


def test_names_regions_and_layout():
    lake, cliff, taxi = (from_gymnasium(environment(name))[0] for name in ("lake", "cliff", "taxi"))
    assert lake.action_names == ("left", "down", "right", "up")
    assert torch.nonzero(lake.regions["hole"]).flatten().tolist() == [5, 7, 11, 12]
    assert torch.nonzero(lake.regions["goal"]).flatten().tolist() == [15]
    assert torch.nonzero(cliff.regions["goal"]).flatten().tolist() == [47]
    assert cliff.layout.cells[36] == (3, 0)
    assert [label for label in cliff.layout.labels if label] == ["S", *["~"] * 10, "G"]
    town = environment("taxi").unwrapped
    assert len(set(taxi.layout.cells) - {None}) == 500
    for state in (0, 16, 328, 499):
        row, column, passenger, destination = town.decode(state)
        assert taxi.layout.cells[state] == (6 * destination + 1 + row, 6 * passenger + column)
        assert taxi.state_name(state).endswith(f"to {'RGYB'[destination]}: ({row},{column})")
    assert taxi.state_name(town.encode(2, 3, 0, 1)) == "from R to G: (2,3)"
    assert taxi.state_name(town.encode(2, 3, 4, 2)) == "aboard to Y: (2,3)"
    here = [taxi.layout.labels[town.encode(row, column, 4, 0)] for row, column in town.locs]
    assert here == ["R", "G", "Y", "B"]


@pytest.mark.parametrize("name", ["lake", "cliff", "taxi"])
def test_arrows_point_where_actions_move(name):
    environment_of = environment("firm lake" if name == "lake" else name).unwrapped
    mdp, _ = from_gymnasium(environment(name))
    middle = {"lake": 8, "cliff": 18, "taxi": 246}[name]  # of Taxi row 2, column 2, without walls
    row, column = mdp.layout.cells[middle]
    assert name != "taxi" or mdp.layout.arrows[4:] == (None, None)
    for action, arrow in enumerate(mdp.layout.arrows[:4]):
        ((_, following, _, _),) = environment_of.P[middle][action]
        moved = mdp.layout.cells[int(following)]
        inside = column + arrow[1] >= 0
        assert moved == ((row + arrow[0], column + arrow[1]) if inside else (row, column))


def test_environment_without_a_table_is_refused():
    with pytest.raises(ValueError, match="no transition table P"):
        from_gymnasium("CartPole-v1")


def test_environment_without_a_start_is_refused():
    table = Table([stay(0)])
    del table.initial_state_distrib
    with pytest.raises(ValueError, match="does not say where it starts"):
        from_gymnasium(table)


def test_start_of_another_size_is_refused():
    table = Table([stay(0)])
    table.initial_state_distrib = np.array([0.5, 0.5])
    with pytest.raises(ValueError, match=r"shape \[2\]; expected \[1\]"):
        from_gymnasium(table)


@pytest.mark.parametrize("name", ["Nope-v1", "FrozenLake-v99", "nomodule:Nope-v1"])
def test_environment_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match="cannot make"):
        from_gymnasium(name)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="does not take"):
        from_gymnasium("FrozenLake-v1", wind=1)
    with pytest.raises(ValueError, match="made already"):
        from_gymnasium(environment("lake"), is_slippery=False)


def test_default_temperature_shows_something():
    """A hundredth of the largest reward that can be earned; rewards of 0 leave 1."""
    lake = gymnasium_model("FrozenLake-v1", horizon=100)
    assert lake.temperature == pytest.approx(0.01)
    answer = infer(lake, "variational")
    assert float(answer.policy_divergence) > 10
    assert float(answer.believed_return) > 0.5  # .0139 of the action prior, .74 of the best policy
    assert gymnasium_model("CliffWalking-v1", horizon=5).temperature == pytest.approx(1.0)
    assert gymnasium_model(Table([[(1.0, 0, 0.0, False)]]), horizon=3).temperature == 1.0
    assert gymnasium_model("FrozenLake-v1", horizon=5, temperature=0.3).temperature == 0.3
