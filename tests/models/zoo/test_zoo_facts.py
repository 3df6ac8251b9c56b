"""What is known about the problems of the zoo, from their sources or by hand."""

import math
import re

import numpy as np
import pytest
import torch

import cai
from cai.models import (
    ObservationModel,
    bridge,
    chain,
    cliff,
    condition,
    double_chain,
    four_rooms,
    inventory,
    kitchen,
    kitchen_observations,
    ladder,
    machine,
    maze,
    random_mdp,
    river_swim,
    road_network,
    small_roads,
    three_paths,
    tiger,
    tiger_observations,
    windy,
)
from cai.models.zoo.roads import town, turn_angle


def hard(model):
    """Hard value iteration: (values [T, S], greedy actions of the first step by state)."""
    posterior = cai.infer(model, "value-iteration")
    return posterior.values, posterior.action_probs[0].argmax(-1).tolist()


def start_value(model):
    return float(hard(model)[0][0] @ model.mdp.initial)


def moves(model, state, action):
    """Next state's name -> probability."""
    mdp = model.mdp
    row = mdp.dense()[mdp.state_index(state), mdp.action_index(action)]
    return {mdp.state_name(s): pytest.approx(float(p), abs=1e-12) for s, p in enumerate(row) if p > 0}


# ---- grids ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "steps"), [("four", 15), ("king", 7)])
def test_the_windy_grid_takes_as_many_steps_as_the_book_says(which, steps):
    """Sutton and Barto 2018, example 6.5 and exercise 6.9."""
    model = windy(moves=which, goal_reward=0.0, horizon=40)
    assert model.mdp.num_states == 70
    assert start_value(model) == pytest.approx(-steps, abs=1e-9)


def test_wind():
    assert moves(windy(), "(4,3)", "right") == {"(3,4)": 1.0}
    assert moves(windy(), "(1,6)", "up") == {"(0,6)": 1.0}  # two up, and no further than the border
    third = {"(4,4)": 1 / 3, "(3,4)": 1 / 3, "(2,4)": 1 / 3}
    assert moves(windy(2 / 3), "(4,3)", "right") == third  # exercise 6.10
    assert moves(windy(2 / 3), "(4,1)", "right") == {"(4,2)": 1.0}  # no gusts where there is no wind
    with pytest.raises(ValueError, match="wind has 2 numbers, and the map 10 columns"):
        windy(wind=(0, 1))
    with pytest.raises(ValueError, match="give whole numbers of cells"):
        windy(wind=[0.5] * 10)
    with pytest.raises(ValueError, match="moves is 'queen'"):
        windy(moves="queen")


def test_the_cliff_without_slip_returns_minus_13():
    """Sutton and Barto 2018, example 6.6; a fall costs 100 and a step, and leads back."""
    model = cliff(0.0, goal_reward=0.0, horizon=40)
    assert start_value(model) == pytest.approx(-13.0, abs=1e-9)
    assert moves(model, "chasm(3,4)", "up") == {"start(3,0)": 1.0}
    falls = model.reward_table(0).expand_as(model.mdp.probabilities)[model.mdp.state_index("(2,4)"), 2, 0]
    assert float(falls) == -101.0


def test_on_the_cliff_exact_inference_falls_more_often():
    model = cliff()
    exact, fixed = cai.compare(model, ["exact", "variational"]).rows
    assert exact.luck > 0.5
    assert exact.outcome.visits["cliff"] > 2 * fixed.outcome.visits["cliff"]
    assert exact.real_return < fixed.real_return
    assert exact.believed_return > fixed.believed_return
    with pytest.raises(ValueError, match="2 starts"):
        cliff(text="S.S")


def test_four_rooms():
    """Sutton, Precup and Singh 1999: 104 cells; 2/3 as meant, 1/9 in each other direction."""
    model = four_rooms()
    assert model.mdp.num_states == 104
    assert moves(model, "(1,1)", "right") == {"(1,2)": 2 / 3, "(0,1)": 1 / 9, "(2,1)": 1 / 9, "(1,0)": 1 / 9}
    assert moves(model, "start(0,0)", "up") == {"start(0,0)": 7 / 9, "(0,1)": 1 / 9, "(1,0)": 1 / 9}


def test_the_maze():
    """Sutton and Barto 2018, example 8.1: 47 cells, 14 steps."""
    model = maze(goal_reward=0.0, horizon=30)
    assert model.mdp.num_states == 47
    assert start_value(model) == pytest.approx(-14.0, abs=1e-9)


# ---- chains --------------------------------------------------------------------------------------------------------


def test_river_swim():
    """The transition table of Strehl and Littman 2008."""
    model = river_swim(horizon=math.inf, discount=0.95)
    assert moves(model, "s1", "right") == {"s1": 0.7, "s2": 0.3}
    for i in range(2, 6):
        assert moves(model, f"s{i}", "right") == {f"s{i - 1}": 0.1, f"s{i}": 0.6, f"s{i + 1}": 0.3}
    assert moves(model, "s6", "right") == {"s5": 0.7, "s6": 0.3}
    assert moves(model, "s4", "left") == {"s3": 1.0}
    assert model.mdp.initial.tolist() == [0.0, 0.5, 0.5, 0.0, 0.0, 0.0]
    expected = (model.reward_table(0) * model.mdp.probabilities).sum(-1)
    assert expected[0].tolist() == [5.0, 0.0]
    assert float(expected[5, 1]) == pytest.approx(3000.0, abs=1e-9)
    assert hard(model)[1] == [model.mdp.action_index("right")] * 6


def test_the_chain_earns_3677_in_a_thousand_steps():
    """What the optimal policy, always on, collects in 1000 steps."""
    model = chain(horizon=math.inf, discount=0.99)
    assert hard(model)[1] == [0] * 5
    rows = model.mdp.dense()[:, 0].numpy()
    shares = np.linalg.matrix_power(rows, 200)[0]
    paid = (model.reward_table(0) * model.mdp.probabilities).sum(-1)[:, 0].numpy()
    assert shares @ paid == pytest.approx(3.6768, abs=1e-9)


def test_the_double_chain():
    """Furmston and Barber 2010: five states each, one shared; the patient way is worth more unless time is short."""
    model = double_chain()
    assert model.mdp.num_states == 9
    assert moves(model, "start", "back") == {"low 1": 1.0}
    assert moves(model, "low 3", "back") == {"start": 1.0}
    assert moves(model, "up 4", "on") == {"up 4": 1.0}
    assert start_value(model) == pytest.approx(16 * 10, abs=1e-9)  # four steps up, and 16 of 10
    assert start_value(double_chain(long_reward=5.0)) == pytest.approx(2 + 16 * 5, abs=1e-9)
    assert start_value(double_chain(horizon=1)) == pytest.approx(2.0, abs=1e-9)


# ---- risk ----------------------------------------------------------------------------------------------------------


def climb(slip, temperature, optimistic, rungs=5, prize=3.0, fall=-10.0):
    """(value of the ground, probability to climb at every rung), by the recursion written out."""
    value, climbs = prize * rungs + temperature * math.log(1.0), []
    for rung in reversed(range(rungs)):
        if optimistic:
            parts = (1 - slip) * math.exp(value / temperature) + slip * math.exp(fall / temperature)
            onward = temperature * math.log(parts)
        else:
            onward = (1 - slip) * value + slip * fall
        stop = prize * rung
        top = max(stop, onward)
        total = 0.5 * math.exp((stop - top) / temperature) + 0.5 * math.exp((onward - top) / temperature)
        climbs.append(0.5 * math.exp((onward - top) / temperature) / total)
        value = top + temperature * math.log(total)
    return value, climbs[::-1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("backend", "optimistic"), [("exact", True), ("variational", False)])
def test_the_ladder_by_hand(backend, optimistic, temperature):
    model = ladder(temperature=temperature)
    posterior = cai.infer(model, backend)
    value, climbs = climb(0.4, temperature, optimistic)
    assert float(posterior.values[0, 0]) == pytest.approx(value, abs=1e-9)
    for rung, chance in enumerate(climbs):
        assert float(posterior.action_probs[rung, rung, 1]) == pytest.approx(chance, abs=1e-9)


def test_in_the_cold_the_ladder_costs_luck_at_every_rung():
    model = ladder(temperature=0.05)
    exact, fixed = cai.compare(model, ["exact", "variational"]).rows
    assert exact.luck == pytest.approx(5 * math.log(1 / 0.6), abs=1e-6)  # e^(-3 / 0.05) stops on the way
    assert exact.believed_return == pytest.approx(15.0, abs=1e-6)
    assert exact.real_return == pytest.approx(0.6**5 * 15 - (1 - 0.6**5) * 10, abs=1e-6)
    assert fixed.real_return == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(ValueError, match="rungs is 0"):
        ladder(rungs=0)


def test_the_bridge_is_another_lesson():
    """Its posterior does not depend on the slip; the ladder's does."""
    same = [float(cai.infer(bridge(slip), "exact").log_evidence) for slip in (0.1, 0.4)]
    differ = [float(cai.infer(ladder(slip), "exact").log_evidence) for slip in (0.1, 0.4)]
    assert same[0] == pytest.approx(same[1], abs=1e-9)
    assert differ[0] > differ[1] + 1


# ---- routes --------------------------------------------------------------------------------------------------------


def path_shares(model):
    """Probability of each path by the names of its actions, from the policy of the exact posterior."""
    posterior = cai.infer(model, "exact")
    mdp, shares = model.mdp, {}

    def walk(state, t, chance, names):
        if bool(mdp.terminal[state]):
            shares[names] = chance
            return
        for action in torch.nonzero(mdp.available[state])[:, 0].tolist():
            following = int(mdp.next_states[state, action, 0])
            step = float(posterior.action_probs[t, state, action])
            walk(following, t + 1, chance * step, (*names, mdp.action_name(action)))

    walk(int(mdp.initial.argmax()), 0, 1.0, ())
    return list(shares.values()), {names[-1]: share for names, share in shares.items()}


@pytest.mark.parametrize("path_cost", [0.0, 2.0, 7.0])
def test_label_bias(path_cost):
    """Ziebart et al. 2008, figure 2: a third each; action by action 50, 25 and 25 percent."""
    fair, _ = path_shares(three_paths(path_cost=path_cost))
    assert fair == pytest.approx([1 / 3] * 3, abs=1e-12)
    _, biased = path_shares(three_paths(path_cost=path_cost, entropy_form=False))
    assert biased == pytest.approx({"path 1": 0.25, "path 2": 0.25, "path 3": 0.5}, abs=1e-12)
    for entropy_form in (True, False):
        back, _ = path_shares(three_paths(path_cost=path_cost, entropy_form=entropy_form, backwards=True))
        assert back == pytest.approx([1 / 3] * 3, abs=1e-12)


def test_boltzmann_choices_have_the_label_bias():
    posterior = cai.infer(three_paths(entropy_form=False), "boltzmann")
    assert posterior.action_probs[0, 0].tolist() == pytest.approx([0.5, 0.5, 0.0, 0.0], abs=1e-12)


def test_the_town():
    graph = town()
    assert turn_angle(graph, ("a1", "a2"), ("a2", "a3")) == pytest.approx(0.0, abs=1e-9)
    assert turn_angle(graph, ("b1", "b2"), ("b2", "a2")) == pytest.approx(90.0, abs=1e-9)  # north is to the left
    assert turn_angle(graph, ("b1", "b2"), ("b2", "c2")) == pytest.approx(-90.0, abs=1e-9)
    assert abs(turn_angle(graph, ("b1", "b2"), ("b2", "b1"))) == pytest.approx(180.0, abs=1e-9)
    assert graph.edges["b1", "b2"]["minutes"] == 1.0
    assert graph.edges["a1", "a2"]["minutes"] == 2.0
    model = small_roads()
    assert model.mdp.state_name(int(model.mdp.terminal.nonzero()[0, 0])) == "c3 -> work"
    assert int(model.mdp.terminal.sum()) == 1


def test_the_features_of_the_town_are_the_costs_of_its_network():
    """The linear reward against `road_network`, which is asked for the same costs in another way."""
    graph, weights = town(), (-1.0, -0.5, -5.0, -0.2)
    for edge in graph.edges:
        graph.edges[edge]["cost"] = graph.edges[edge]["minutes"] - weights[3]

    def turn_cost(edge, onto):
        angle = turn_angle(graph, edge, onto)
        return 5.0 if abs(angle) >= 177 else 0.5 if angle > 40 else 0.0

    mdp, reward = road_network(graph, "work", cost="cost", states="edges", turn_cost=turn_cost)
    model = small_roads(weights)
    assert mdp.state_names == model.mdp.state_names
    torch.testing.assert_close(model.reward_table(0)[..., 0], reward.table, rtol=0, atol=1e-12)


def test_recursive_logit():
    """Fosgerau, Frejinger and Karlstrom 2013: exp(V) solves a linear system over the links, in the entropy form."""
    model = small_roads(horizon=math.inf).entropy_form()
    mdp, plain = model.mdp, small_roads().reward_table(0)[..., 0]
    size = mdp.num_states
    matrix, right = np.eye(size), np.zeros(size)
    for s in range(size):
        if bool(mdp.terminal[s]):
            right[s] = 1.0
            continue
        for a in torch.nonzero(mdp.available[s])[:, 0].tolist():
            matrix[s, int(mdp.next_states[s, a, 0])] -= math.exp(float(plain[s, a]))
    solution = np.log(np.linalg.solve(matrix, right))
    for backend in ("exact", "z-iteration"):  # 'variational' refuses a bonus that may be earned for ever
        np.testing.assert_allclose(cai.infer(model, backend).values[0].numpy(), solution, atol=1e-8)


def test_the_gradient_of_evidence_is_the_mean_of_features():
    """Without chance d log p(O) / d weights = E[sum of features] / alpha (Ziebart et al. 2008, equation 6)."""
    weights = torch.tensor([-1.0, -0.5, -5.0, -0.2], dtype=torch.float64, requires_grad=True)
    model = small_roads(weights, temperature=2.0)
    posterior = cai.infer(model, "exact")
    (gradient,) = torch.autograd.grad(posterior.log_evidence, weights)
    visits = posterior.state_marginals.detach()[:-1, :, None] * posterior.action_probs.detach()
    features = (visits.sum(0)[..., None] * model.reward.features).sum((0, 1))
    torch.testing.assert_close(gradient, features / 2.0, rtol=0, atol=1e-9)


# ---- operations ----------------------------------------------------------------------------------------------------


def test_inventory_as_in_puterman():
    """Puterman 1994, section 3.2.2 (rewards, transitions) and example 4.6.1 (three months)."""
    model = inventory(horizon=3)
    mean = (model.reward_table(0) * model.mdp.probabilities).sum(-1)
    table = {0: [0, -1, -2, -5], 1: [5, 0, -3], 2: [6, -1], 3: [5]}
    for stock, rewards in table.items():
        assert mean[stock, : len(rewards)].tolist() == pytest.approx(rewards, abs=1e-12)
        assert model.mdp.available[stock].tolist() == [a < len(rewards) for a in range(4)]
    assert moves(model, "0", "order 2") == {"0": 0.25, "1": 0.5, "2": 0.25}
    assert moves(model, "1", "order 0") == {"0": 0.75, "1": 0.25}
    values, first = hard(model)
    assert values[2].tolist() == pytest.approx([0, 5, 6, 5], abs=1e-12)
    assert values[1].tolist() == pytest.approx([2, 25 / 4, 10, 21 / 2], abs=1e-12)
    assert values[0].tolist() == pytest.approx([67 / 16, 129 / 16, 97 / 8, 227 / 16], abs=1e-12)
    assert first == [3, 0, 0, 0]
    second = cai.infer(model, "value-iteration").action_probs[1].argmax(-1).tolist()
    assert second == [2, 0, 0, 0]


def test_exact_inference_believes_in_customers():
    model = inventory()
    posterior = cai.infer(model, "exact")
    order = model.mdp.action_index("order 3")
    asked = float(posterior.dynamics(0)[0, order, 1])  # two units sold of three
    assert asked > 0.25
    assert float(posterior.luck) > 0.5
    with pytest.raises(ValueError, match=r"demand sums to 0\.5"):
        inventory([0.25, 0.25])
    with pytest.raises(ValueError, match="capacity is 0"):
        inventory(capacity=0)
    with pytest.raises(ValueError, match="initial_stock is 4, and the store holds 3"):
        inventory(initial_stock=4)
    with pytest.raises(ValueError, match="demand has shape"):
        inventory([[0.5, 0.5]])


@pytest.mark.parametrize("replace_cost", [1.0, 8.0, 20.0, 1000.0])
@pytest.mark.parametrize("wear", [(0.5, 0.3, 0.2), (0.9, 0.1), (0.0, 1.0)])
def test_the_machine_has_a_control_limit(replace_cost, wear):
    """A control limit (Puterman 1994): replace from some condition on."""
    model = machine(wear, replace_cost=replace_cost, horizon=math.inf, discount=0.9)
    _, actions = hard(model)
    assert actions == sorted(actions)
    assert model.mdp.action_names == ("run", "replace")
    assert actions[0] == 0
    if replace_cost == 1000.0:
        assert set(actions) == {0}
    with pytest.raises(ValueError, match="wear"):
        machine([0.5, 0.6])


# ---- hidden states -------------------------------------------------------------------------------------------------


def test_the_tiger_is_believed_where_it_growls():
    """Kaelbling, Littman and Cassandra 1998, section 5.1: 0.85, then 0.85^2 / (0.85^2 + 0.15^2), and even again."""
    model, seen = tiger(), tiger_observations()
    heard = [None, "growl left", "growl left", "growl right", "growl left"]
    done = ["listen", "listen", "listen", "open right"]
    beliefs = cai.inference.filter_states(model, seen, heard, done)[:, 0].tolist()
    assert beliefs == pytest.approx([0.5, 0.85, 0.7225 / 0.745, 0.85, 0.5], abs=1e-12)


def test_when_to_open_with_one_step_left():
    """Kaelbling, Littman and Cassandra 1998, section 5.2: listen where both states are believed with at least 0.1."""
    rewards = tiger().reward_table(0)[..., 0]
    for belief, best in ((0.05, 1), (0.099, 1), (0.101, 0), (0.5, 0), (0.899, 0), (0.901, 2)):
        means = torch.tensor([belief, 1 - belief], dtype=torch.float64) @ rewards
        assert int(means.argmax()) == best, belief


def test_who_sees_through_doors_never_listens():
    model = tiger(temperature=0.5)
    posterior = cai.infer(model, "variational")
    assert float(posterior.action_probs[..., 0].max()) < 1e-9
    agent = cai.extract_policy(posterior).filtered(model, tiger_observations())
    agent.reset()
    assert agent.probs().tolist() == pytest.approx([0.0, 0.5, 0.5], abs=1e-9)
    agent.observe("listen", "growl left")
    assert agent.probs().tolist() == pytest.approx([0.0, 0.15, 0.85], abs=1e-9)
    assert isinstance(tiger_observations(1.0), ObservationModel)
    with pytest.raises(ValueError, match="accuracy is 2"):
        tiger_observations(2)


def test_intent_by_planning_as_inference():
    """p(intent | actions, O) by conditioning the program, against Bayes' rule on the exact policies of both intents."""
    model = kitchen(kettle_probability=0.3, temperature=2.0)
    posterior = cai.infer(model, "exact")
    wants = model.mdp.regions["wants kettle"]
    starts = torch.nonzero(model.mdp.initial)[:, 0].tolist()
    for actions in (["up"], ["up", "left"], ["left", "left"], ["right", "up"]):
        numbers = [model.mdp.action_index(name) for name in actions]
        weights = {}
        for state in starts:
            here, chance = state, float(posterior.initial[state])
            for t, action in enumerate(numbers):
                chance *= float(posterior.action_probs[t, here, action])
                here = int(model.mdp.next_states[here, action, 0])
            weights[bool(wants[state])] = chance
        known = condition(model, {f"a_{t + 1}": action for t, action in enumerate(numbers)})
        belief = float(cai.infer(known, "enumeration").state_marginals[0][wants].sum())
        assert belief == pytest.approx(weights[True] / sum(weights.values()), abs=1e-9)


def test_what_tells_the_intent():
    model = kitchen()
    wants = model.mdp.regions["wants kettle"]

    def kettle(*actions):
        numbers = {f"a_{t + 1}": model.mdp.action_index(action) for t, action in enumerate(actions)}
        return float(cai.infer(condition(model, numbers), "enumeration").state_marginals[0][wants].sum())

    assert kettle("up") == pytest.approx(0.5, abs=1e-9)
    assert kettle("up", "left") > 0.6
    assert kettle("up", "left", "left") > kettle("up", "left")
    assert kettle("right") == pytest.approx(1 - kettle("left"), abs=1e-9)
    cold = model.replace(temperature=0.3)
    number = model.mdp.action_index("left")
    sure = float(cai.infer(condition(cold, {"a_1": number}), "enumeration").state_marginals[0][wants].sum())
    assert sure > kettle("left")


def test_an_onlooker_sees_the_cell_and_not_the_intent():
    model, seen = kitchen(), kitchen_observations()
    rows = seen.probabilities
    assert rows.shape == (28, 14)
    assert bool((rows.sum(0) == 2).all())  # each cell is a state of either intent
    path = ["(2,2)", "(1,2)", "(1,1)"]
    beliefs = cai.inference.filter_states(model, seen, path, ["up", "left"])
    shares = beliefs[:, model.mdp.regions["wants kettle"]].sum(-1)
    assert shares.tolist() == pytest.approx([0.5] * 3, abs=1e-12)  # given actions tell nothing: they are set
    with pytest.raises(ValueError, match="lacks a K"):
        kitchen(text="S.F")


# ---- at random -----------------------------------------------------------------------------------------------------


def test_garnets():
    model = random_mdp(3, num_states=12, num_actions=4, branching=3, num_terminal=2)
    again = random_mdp(3, num_states=12, num_actions=4, branching=3, num_terminal=2)
    other = random_mdp(4, num_states=12, num_actions=4, branching=3, num_terminal=2)
    assert torch.equal(model.mdp.probabilities, again.mdp.probabilities)
    assert torch.equal(model.reward_table(0), again.reward_table(0))
    assert not torch.equal(model.mdp.probabilities, other.mdp.probabilities)
    assert model.mdp.terminal.tolist() == [False] * 10 + [True] * 2
    following = model.mdp.next_states[:10].sort(-1).values
    assert bool((following.diff(dim=-1) > 0).all())
    assert float(model.mdp.initial[:10].sum()) == pytest.approx(1.0, abs=1e-12)


def test_a_large_garnet_takes_memory_for_its_successors_alone():
    """Permuting all states once for each action would have taken 240 GB; each state is next as often as any other."""
    mdp = random_mdp(num_states=100_000, num_actions=3, branching=20, num_terminal=1).mdp
    ordered = mdp.next_states[:-1].sort(-1).values
    assert (ordered[..., 1:] > ordered[..., :-1]).all()
    counts = torch.bincount(ordered.flatten() // 10_000, minlength=10).double()
    mean = counts.sum() / 10
    assert ((counts - mean).abs() < 6 * mean.sqrt()).all()


def test_next_states_that_are_permuted_by_blocks_are_the_same(monkeypatch):
    asked = {"num_states": 20, "num_actions": 3, "branching": 15}
    whole = random_mdp(5, **asked)
    monkeypatch.setattr("cai.models.zoo.random_mdps.PERMUTED", 100)
    assert torch.equal(random_mdp(5, **asked).mdp.next_states, whole.mdp.next_states)
    assert torch.equal(random_mdp(5, **asked).mdp.probabilities, whole.mdp.probabilities)


def test_garnets_of_one():
    model = random_mdp(num_states=1, num_actions=1, branching=1, horizon=1)
    assert float(cai.infer(model, "exact").log_evidence) == pytest.approx(float(model.reward_table(0)), abs=1e-12)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_states": 0}, "num_states is 0; give a whole number of at least 1"),
        ({"num_actions": 0}, "num_actions is 0"),
        ({"num_states": 2.5}, "num_states is 2.5; give a whole number"),
        ({"branching": 9}, "branching is 9, and there are 8 states"),
        ({"branching": 0}, "branching is 0"),
        ({"num_terminal": 8}, "leave at least one to decide in"),
        ({"reward_scale": -1.0}, "reward_scale is -1.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_garnets_that_do_not_exist(options, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        random_mdp(**options)
