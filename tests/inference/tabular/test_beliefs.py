"""Filter, smoother and belief policies against sums over all paths in plain Python, and the tiger's known numbers."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from campaigns import each_seed
from methods import FAILURE_RATE
from oracle import random_problem
from refusals import check, refuse
from scipy.stats import binom, norm

import cai
from cai.evaluation import evaluate_belief_policy, simulate
from cai.inference.tabular.filtering import StateFilter, filter_states, observation_log_likelihood, smooth_states
from cai.models import MDP, TrajectoryModel
from cai.models.processes.observation import ObservationModel
from cai.policies import BeliefPolicy
from cai.policies.policy import Policy

LISTEN, LEFT, RIGHT = range(3)


def tiger(horizon=20, **options):
    """Kaelbling, Littman and Cassandra 1998, section 5.1: two doors, a tiger behind one, and an ear that errs."""
    stays = torch.eye(2, dtype=torch.float64)
    anew = torch.full((2, 2), 0.5, dtype=torch.float64)
    mdp = MDP(
        torch.stack([stays, anew, anew], 1),
        [0.5, 0.5],
        state_names=["tiger-left", "tiger-right"],
        action_names=["listen", "open-left", "open-right"],
    )
    model = TrajectoryModel(mdp, [[-1.0, -100.0, 10.0], [-1.0, 10.0, -100.0]], horizon, **options)
    heard = torch.full((3, 2, 2), 0.5, dtype=torch.float64)
    heard[LISTEN] = torch.tensor([[0.85, 0.15], [0.15, 0.85]], dtype=torch.float64)
    return model, ObservationModel(heard, ["hear-left", "hear-right"])


def random_observations(rng, problem):
    """An observation model as a tensor model and as the plain function p(o | a, s), a None at first."""
    size, num_states, num_actions = int(rng.integers(1, 4)), problem.num_states, problem.num_actions
    reads_action = rng.random() < 0.5

    def table(*shape):
        rows = rng.dirichlet(np.ones(size), size=shape)
        rows = np.where(rng.random(rows.shape) < 0.3, 0.0, rows)
        rows[rows.sum(-1) == 0, 0] = 1.0
        return rows / rows.sum(-1, keepdims=True)

    rows = table(num_actions, num_states) if reads_action else table(num_states)
    first = table(num_states) if rng.random() < 0.5 else None
    model = ObservationModel(rows, first=first)

    def chance(observation, state, action):
        if observation is None:
            return 1.0
        if action is None and first is not None:
            return float(first[state, observation])
        return float(rows[action, state, observation] if reads_action else rows[state, observation])

    return model, chance, size, first is not None or not reads_action


def successors(problem, state, action):
    """(probability of the move and of going on, next state), equal ones not joined."""
    if problem.terminal[state]:
        return [(1.0, state)]
    return [(p * problem.discount, s) for p, s, _ in problem.outcomes[state][action] if p > 0]


def all_paths(problem, chance, observations, actions):
    """Every path of states that goes on, with its probability and that of what was observed."""
    alive = [((s,), p * chance(observations[0], s, None)) for s, p in enumerate(problem.initial)]
    for t, action in enumerate(actions):
        alive = [
            ((*path, s), weight * p * chance(observations[t + 1], s, action))
            for path, weight in alive
            if weight > 0
            for p, s in successors(problem, path[-1], action)
        ]
    return [(path, weight) for path, weight in alive if weight > 0]


def beliefs_by_paths(problem, chance, observations, actions, at, upto):
    """p(s_at | what was seen until upto), by a sum over all paths."""
    totals = [0.0] * problem.num_states
    for path, weight in all_paths(problem, chance, observations[: upto + 1], actions[:upto]):
        totals[path[at]] += weight
    return [total / math.fsum(totals) for total in totals]


def exists(problem, belief, action):
    """Whether an action is available in all nonterminal states of a belief."""
    held = problem.model.mdp.available
    return all(bool(held[s, action]) or problem.terminal[s] for s, b in enumerate(belief) if b > 0)


def random_run(rng, problem, chance, size, sees_first):
    """A run that can happen: observations (some missing) and actions that exist wherever the state may be."""
    state = int(rng.choice(problem.num_states, p=problem.initial))

    def look(state, action):
        if (action is None and not sees_first) or rng.random() < 0.15:
            return None
        return int(rng.choice(size, p=[chance(o, state, action) for o in range(size)]))

    observations, actions = [look(state, None)], []
    for t in range(int(rng.integers(0, 5))):
        belief = beliefs_by_paths(problem, chance, observations, actions, t, t)
        known = [a for a in range(problem.num_actions) if exists(problem, belief, a)]
        if not known:
            break
        actions.append(int(rng.choice(known)))
        moves = successors(problem, state, actions[-1])
        state = moves[rng.choice(len(moves), p=[p / sum(q for q, _ in moves) for p, _ in moves])][1]
        observations.append(look(state, actions[-1]))
    return observations, actions


@each_seed(range(80), quick=24)
def test_filter_and_smoother_are_sums_over_all_paths(seed):
    rng = np.random.default_rng(1000 + seed)
    problem = random_problem(seed)
    model, chance, size, sees_first = random_observations(rng, problem)
    observations, actions = random_run(rng, problem, chance, size, sees_first)
    given = (problem.model, model, observations, actions)
    filtered, smoothed = filter_states(*given), smooth_states(*given)
    last = len(actions)
    assert filtered.shape == smoothed.shape == (last + 1, problem.num_states)
    for t in range(last + 1):
        want = beliefs_by_paths(problem, chance, observations, actions, t, t)
        assert filtered[t].tolist() == pytest.approx(want, abs=1e-12)
        want = beliefs_by_paths(problem, chance, observations, actions, t, last)
        assert smoothed[t].tolist() == pytest.approx(want, abs=1e-12)
    total = math.fsum(weight for _, weight in all_paths(problem, chance, observations, actions))
    assert float(observation_log_likelihood(*given)) == pytest.approx(math.log(total), abs=1e-12)


def test_the_random_runs_are_worth_their_name():
    long = ends = listed = hidden = 0
    for seed in range(80):
        rng = np.random.default_rng(1000 + seed)
        problem = random_problem(seed)
        model, chance, size, sees_first = random_observations(rng, problem)
        observations, actions = random_run(rng, problem, chance, size, sees_first)
        long += len(actions) >= 3
        ends += len(actions) >= 2 and problem.discount < 1 and any(problem.terminal)
        listed += len(actions) >= 2 and not problem.model.mdp.is_dense
        hidden += any(0.01 < b < 0.99 for b in filter_states(problem.model, model, observations, actions)[-1].tolist())
    assert min(long, listed, hidden) >= 15
    assert ends >= 3


@pytest.mark.parametrize("discount", [1.0, 0.8])
def test_the_likelihoods_of_all_observations_sum_to_the_chance_of_going_on(discount):
    model, heard = tiger(discount=discount)
    actions = ["listen", "listen", "open-left", "listen"]
    runs = [[None, *seen] for seen in itertools.product(range(2), repeat=len(actions))]
    total = math.fsum(float(observation_log_likelihood(model, heard, run, actions).exp()) for run in runs)
    assert total == pytest.approx(discount ** len(actions), abs=1e-12)
    assert float(observation_log_likelihood(model.mdp, heard, runs[3], actions)) == pytest.approx(
        float(observation_log_likelihood(model, heard, runs[3], actions)) - 4 * math.log(discount), abs=1e-12
    )


@each_seed(range(10), quick=4)
def test_a_discount_is_an_absorbing_state_that_can_be_seen(seed):
    rng = np.random.default_rng(seed)
    moves = rng.dirichlet(np.ones(3), size=(3, 2))
    moves[2] = [0.0, 0.0, 1.0]  # terminal
    stays = np.array([0.7, 0.7, 1.0])[:, None, None]
    wider = np.zeros((4, 2, 4))
    wider[:3, :, :3], wider[:3, :, 3:], wider[3, :, 3] = moves * stays, 1 - stays, 1.0
    rows = rng.dirichlet(np.ones(3), size=3)
    shown = np.zeros((4, 4))
    shown[:3, :3], shown[3, 3] = rows, 1.0
    actions, observations = rng.integers(2, size=6), rng.integers(3, size=7)
    model = TrajectoryModel(MDP(moves, [0.5, 0.4, 0.1], terminal=[2]), 0.0, 3, discount=0.7)
    plain = (model, ObservationModel(rows), observations, actions)
    explicit = (MDP(wider, [0.5, 0.4, 0.1, 0.0]), ObservationModel(shown), observations, actions)
    for function in (filter_states, smooth_states):
        assert torch.allclose(function(*plain), function(*explicit)[:, :3], atol=1e-12, rtol=0)
    without = filter_states(model.mdp, *plain[1:])
    assert not torch.allclose(without, filter_states(*plain), atol=1e-3)  # going on speaks for the terminal state
    likelihoods = [float(observation_log_likelihood(*given)) for given in (plain, explicit)]
    assert likelihoods[0] == pytest.approx(likelihoods[1], abs=1e-12)


def test_the_tiger_as_the_literature_has_it():
    model, heard = tiger()
    run = [None, "hear-left", "hear-left", "hear-right", "hear-left"]
    beliefs = filter_states(model, heard, run, ["listen", "listen", "listen", "open-right"])
    twice = 0.85**2 / (0.85**2 + 0.15**2)
    assert twice == pytest.approx(0.9698, abs=5e-5)
    assert beliefs[:, 0].tolist() == pytest.approx([0.5, 0.85, twice, 0.85, 0.5], abs=1e-15)
    smoothed = smooth_states(model, heard, run, ["listen", "listen", "listen", "open-right"])
    assert smoothed[:, 0].tolist() == pytest.approx([0.85] * 4 + [0.5], abs=1e-15)
    chance = 0.5 * (0.85**2 + 0.15**2) * (twice * 0.15 + (1 - twice) * 0.85) * 0.5
    likelihood = observation_log_likelihood(model.mdp, heard, run, [0, 0, 0, 2])
    assert float(likelihood) == pytest.approx(math.log(chance), abs=1e-14)


@pytest.mark.parametrize("listed", [False, True])
def test_what_was_hardly_believed_can_be_believed_again(listed):
    """600 times left and then 600 times right is no news, though in between right has probability e^-1041."""
    model, heard = tiger()
    mdp = model.mdp
    if listed:
        mdp = MDP.from_successors(np.broadcast_to(np.arange(2), (2, 3, 2)), mdp.probabilities, mdp.initial)
    n = 600
    run, actions = [None, *[0] * n, *[1] * n], [LISTEN] * (2 * n)
    beliefs = filter_states(mdp, heard, run, actions)
    assert beliefs[n].tolist() == [1.0, 0.0]
    assert beliefs[-1].tolist() == pytest.approx([0.5, 0.5], abs=1e-9)
    odds = math.log(0.15 / 0.85)
    assert float(beliefs[2 * n - 5, 1]) == pytest.approx(1 / (1 + math.exp(-5 * odds)), rel=1e-9)
    assert torch.allclose(smooth_states(mdp, heard, run, actions), beliefs[-1], atol=1e-9)
    likelihood = observation_log_likelihood(mdp, heard, run, actions)
    assert float(likelihood) == pytest.approx(n * math.log(0.85 * 0.15), rel=1e-12)


@pytest.mark.parametrize(
    ("seed", "n"), [(0, 800), *(pytest.param(seed, 2000, marks=pytest.mark.campaign) for seed in range(2))]
)
def test_long_runs_hold_no_nan_and_forget_nothing_that_matters(seed, n):
    """The last steps are those of the same run begun late, from the belief that it had there."""
    rng = np.random.default_rng(seed)
    moves = rng.dirichlet(np.ones(4), size=(4, 2))
    moves[moves < 0.15] = 0.0
    moves[:, :, 0] += 0.01
    moves /= moves.sum(-1, keepdims=True)
    rows = np.where(np.eye(4, 3) > 0, 0.0, 0.5)
    rows[3] = [0.0, 0.5, 0.5]
    mdp, shows = MDP(moves, [0.25] * 4), ObservationModel(rows)
    state = 0
    observations, actions = [1], []
    for _ in range(n):
        actions.append(int(rng.integers(2)))
        state = int(rng.choice(4, p=moves[state, actions[-1]]))
        observations.append(int(rng.choice(3, p=rows[state])))
    filtered, smoothed = (f(mdp, shows, observations, actions) for f in (filter_states, smooth_states))
    for rows in (filtered, smoothed):
        assert bool(torch.isfinite(rows).all())
        assert torch.allclose(rows.sum(-1), torch.ones(n + 1).double(), atol=1e-12, rtol=0)
    late = MDP(moves, filtered[n - 4])
    tail = ([None, *observations[n - 3 :]], actions[n - 4 :])
    assert torch.allclose(filter_states(late, shows, *tail), filtered[n - 4 :], atol=1e-12, rtol=0)
    assert torch.allclose(smooth_states(late, shows, *tail), smoothed[n - 4 :], atol=1e-12, rtol=0)
    assert math.isfinite(float(observation_log_likelihood(mdp, shows, observations, actions)))


def test_the_likelihood_has_a_gradient():
    logits = torch.tensor([[0.2, -0.4], [0.1, 1.0]], dtype=torch.float64, requires_grad=True)
    turn = torch.tensor([[0.0, 1.0], [0.5, 0.5]], dtype=torch.float64)[:, None]

    def score(values):
        mdp = MDP(turn, torch.tensor([1.0, 0.0], dtype=torch.float64))
        return observation_log_likelihood(mdp, ObservationModel(values.softmax(-1)), [0, 1, 1, 0], [0, 0, 0])

    assert torch.autograd.gradcheck(score, (logits,))


def test_filters_run_side_by_side_as_alone():
    model, heard = tiger()
    states = StateFilter(model, heard)
    seen, taken = torch.tensor([[0, 0, 1], [1, 0, 0]]).T, torch.tensor([[0, 0, 2], [0, 1, 0]]).T
    log_beliefs, _ = states.start(None, 2)
    for t in range(3):
        log_beliefs, _ = states.update(log_beliefs, taken[t], seen[t], t)
    for i in range(2):
        alone = filter_states(model, heard, [None, *seen[:, i].tolist()], taken[:, i])
        assert log_beliefs[i].exp().tolist() == pytest.approx(alone[-1].tolist(), abs=1e-15)


# ---- belief policies ------------------------------------------------------------------------------------------------


def test_a_belief_policy_averages_the_policy_over_what_it_believes():
    model, heard = tiger()
    policy = cai.extract_policy(cai.infer(model, "variational"))
    agent = BeliefPolicy(policy, model, heard)
    run, actions = [None, 0, 0, 1], [0, 0, 2]
    beliefs = filter_states(model, heard, run, actions)
    for t in range(4):
        assert agent.t == t
        assert agent.belief.tolist() == pytest.approx(beliefs[t].tolist(), abs=1e-15)
        assert torch.allclose(agent.probs(), beliefs[t] @ policy.action_probs[t], atol=1e-15, rtol=0)
        if t < 3:
            agent.observe(actions[t], run[t + 1])
    agent.reset()
    assert agent.t == 0
    assert agent.belief.tolist() == [0.5, 0.5]


def test_runs_that_are_cut_off_say_so(monkeypatch, caplog):
    """Over an infinite horizon the mean return is one of whole runs, or a warning says how many were cut."""
    monkeypatch.setattr("cai.evaluation.hidden_states.LONGEST_ROLLOUT", 3)
    stay = TrajectoryModel(MDP([[[1.0]]], [1.0]), [-1.0], horizon=math.inf, discount=0.9)
    seen = ObservationModel([[1.0]])
    agent = BeliefPolicy(cai.extract_policy(cai.infer(stay, "variational")), stay, seen)
    found = evaluate_belief_policy(agent, stay, 400)
    left = int(caplog.messages[0].split(" of 400 rollouts had not ended after 3 steps")[0])
    assert 240 < left < 340  # .9^3 = .73 of them
    assert left <= int((found.returns == -3).sum())


def test_a_belief_policy_does_not_listen():
    """Where the state is known a door pays 10 and listening costs 1, so the average opens a door, and loses."""
    model, heard = tiger(horizon=4, temperature=0.1)
    agent = BeliefPolicy(cai.extract_policy(cai.infer(model, "variational")), model, heard)
    assert agent.probs().tolist() == pytest.approx([0.0, 0.5, 0.5], abs=1e-9)
    assert evaluate_belief_policy(agent, model, 500).mean_return < -100


def rooms(**options):
    """Two look-alike rooms, each with a door of its own (action 0 or 1) and a bell (2), and a way out."""
    out = [0.0, 0.0, 1.0]
    mdp = MDP(
        [[out, [1.0, 0, 0], [1.0, 0, 0]], [[0, 1.0, 0], out, [0, 1.0, 0]], [out] * 3],
        [0.4, 0.6, 0.0],
        available=[[True, False, True], [False, True, True], [True, False, False]],
        terminal=[2],
        state_names=["west", "east", "out"],
        action_names=["west-door", "east-door", "bell"],
    )
    return TrajectoryModel(mdp, -1.0, 4, **options)


def test_actions_that_may_not_exist_are_left_out():
    model = rooms()
    table = [[0.9, 0.0, 0.1], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]
    agent = BeliefPolicy(Policy(table), model.mdp, ObservationModel.deterministic([0, 0, 1]))
    assert agent.probs().tolist() == [0.0, 0.0, 1.0]
    told = BeliefPolicy(Policy(table), model.mdp, ObservationModel([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    told.reset(1)
    assert told.probs().tolist() == [0.0, 0.0, 1.0]
    told.reset(0)
    assert told.probs().tolist() == [0.9, 0.0, 0.1]
    with pytest.raises(ValueError, match=r"west-door at time index 0 is not available in state east, .* 0\.6"):
        agent.observe("west-door", None)


def test_the_average_is_over_the_states_in_which_something_is_decided():
    model = rooms()
    table = [[0.9, 0.0, 0.1], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]]
    agent = BeliefPolicy(Policy(table), model, ObservationModel.deterministic([0, 1, 0]))
    agent.reset(0)
    agent.observe("west-door", None)
    assert agent.belief.tolist() == [0.0, 0.0, 1.0]
    assert agent.probs().tolist() == [1.0, 0.0, 0.0]
    slips = MDP([[[0.5, 0.0, 0.5]] * 2, [[0.0, 1.0, 0.0]] * 2, [[0.0, 0.0, 1.0]] * 2], [1.0, 0.0, 0.0], terminal=[2])
    agent = BeliefPolicy(Policy([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]]), slips, ObservationModel.deterministic([0, 0, 0]))
    agent.observe(0, 0)
    assert agent.belief.tolist() == [0.5, 0.0, 0.5]
    assert agent.probs().tolist() == pytest.approx([0.9, 0.1], abs=1e-15)


def test_a_run_in_the_true_world_keeps_its_books():
    model, heard = tiger(horizon=15, temperature=20.0)
    agent = BeliefPolicy(cai.extract_policy(cai.infer(model, "exact")), model, heard)
    agent.observe("listen", "hear-left")
    before, random = agent.belief, torch.random.get_rng_state()
    run = simulate(agent, model, seed=3)
    assert torch.equal(agent.belief, before)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert run.ended == "horizon"
    assert run.states.shape == (16,)
    assert run.actions.shape == run.rewards.shape == (15,)
    assert set(run.actions.tolist()) == {0, 1, 2}
    assert run.observations[0] is None
    assert torch.allclose(run.beliefs, filter_states(model, heard, run.observations, run.actions), atol=1e-14, rtol=0)
    table = model.reward_table(0)[..., 0]
    assert run.rewards.tolist() == table[run.states[:-1], run.actions].tolist()
    assert run.total == pytest.approx(sum(run.rewards.tolist()))
    same, other = simulate(agent, model, seed=3), simulate(agent, model, seed=4)
    assert torch.equal(run.states, same.states)
    assert run.observations == same.observations
    assert run.observations != other.observations
    assert len(simulate(agent, model, num_steps=2).actions) == 2


def test_runs_end_in_terminal_states_and_by_the_discount():
    model = rooms(discount=0.8)
    table = Policy([[0.2, 0.0, 0.8], [0.0, 0.2, 0.8], [1.0, 0.0, 0.0]])
    agent = BeliefPolicy(table, model, ObservationModel.deterministic([0, 1, 2]))
    runs = [simulate(agent, model, seed=seed) for seed in range(60)]
    assert {run.ended for run in runs} == {"terminal", "discount", "horizon"}
    for run in runs:
        fell = run.ended == "discount"
        assert run.observations == tuple(run.states.tolist())
        assert run.beliefs.argmax(-1).tolist() == run.states.tolist()
        assert len(run.states) == len(run.observations) == len(run.beliefs) == len(run.actions) + (not fell)
        assert (int(run.states[-1]) == 2) == (run.ended == "terminal")
        assert run.total == -len(run.actions)


@pytest.mark.parametrize("horizon", [6, math.inf])
def test_who_sees_the_state_earns_what_the_policy_earns(horizon):
    model = rooms(discount=0.9).replace(horizon=horizon)
    policy = Policy([[0.3, 0.0, 0.7], [0.0, 0.1, 0.9], [1.0, 0.0, 0.0]])
    exact = cai.evaluate(policy, model).expected_return
    sees, blind = ObservationModel.deterministic([0, 1, 2]), ObservationModel.deterministic([0, 0, 0])
    seeing, blinded = (
        evaluate_belief_policy(BeliefPolicy(policy, model, shown), model, 4000) for shown in (sees, blind)
    )
    reach = float(norm.isf(FAILURE_RATE / 2))
    assert abs(seeing.mean_return - exact) <= reach * seeing.standard_error
    assert blinded.mean_return < exact - reach * blinded.standard_error  # it knows no door, and rings for ever


def returns_by_paths(problem, chance, size, sees_first, table):
    """{return: probability} of the belief-averaged policy, by following every path of world and agent."""
    totals = defaultdict(float)

    def act(belief, t):
        held = [b * (not problem.terminal[s]) for s, b in enumerate(belief)]
        known = [exists(problem, belief, a) for a in range(problem.num_actions)]
        row = [
            sum(b * float(table[t, s, a]) for s, b in enumerate(held)) * known[a] for a in range(problem.num_actions)
        ]
        return [x / sum(row) for x in row]

    def look(state, action, belief, weight, t, earned):
        """Weighs what is seen in a state, and goes on."""
        sees = range(size) if sees_first or action is not None else [None]
        for seen in sees:
            p = chance(seen, state, action)
            if p > 0:
                held = [b * chance(seen, s, action) for s, b in enumerate(belief)]
                go(state, [b / sum(held) for b in held], weight * p, t, earned)

    def go(state, belief, weight, t, earned):
        if t == problem.horizon or problem.terminal[state]:
            totals[round(earned, 9)] += weight
            return
        for action, p in enumerate(act(belief, t)):
            if p == 0:
                continue
            predicted = [0.0] * problem.num_states
            for s, b in enumerate(belief):
                for q, after in successors(problem, s, action) if b > 0 else []:
                    predicted[after] += b * q
            for q, after, rewards in problem.outcomes[state][action]:
                if q == 0:
                    continue
                if problem.discount < 1:
                    totals[round(earned + rewards[t], 9)] += weight * p * q * (1 - problem.discount)
                look(after, action, predicted, weight * p * q * problem.discount, t + 1, earned + rewards[t])

    for state, p in enumerate(problem.initial):
        if p > 0:
            look(state, None, problem.initial, p, 0, 0.0)
    return dict(totals)


def all_available(problem):
    """The same problem with every action available everywhere (the rows of the others are there)."""
    mdp = problem.model.mdp
    keys = {"initial": mdp.initial, "terminal": mdp.terminal}
    free = MDP(mdp.transitions, **keys) if mdp.is_dense else None
    free = free or MDP.from_successors(mdp.next_states, mdp.probabilities, **keys)
    problem.model = problem.model.replace(mdp=free, action_prior=None)
    return problem


SEEDS = range(200, 216)


@pytest.mark.parametrize("seed", SEEDS)
def test_returns_of_belief_policies_come_as_often_as_they_should(seed):
    rng = np.random.default_rng(seed)
    problem = all_available(random_problem(seed))
    model, chance, size, sees_first = random_observations(rng, problem)
    table = rng.dirichlet(np.ones(problem.num_actions), size=(problem.horizon, problem.num_states))
    agent = BeliefPolicy(Policy(table), problem.model, model)
    want = returns_by_paths(problem, chance, size, sees_first, table)
    assert math.fsum(want.values()) == pytest.approx(1.0, abs=1e-9)
    count = 2000
    outcome = evaluate_belief_policy(agent, problem.model, count, seed)
    found = [round(value, 9) for value in outcome.returns.tolist()]
    checks = len(want) * len(SEEDS)
    for value, p in want.items():
        seen = sum(abs(value - other) <= 2e-9 for other in found) if math.isfinite(value) else found.count(value)
        near = math.fsum(q for other, q in want.items() if other == value or abs(other - value) <= 2e-9)
        low, high = binom.interval(1 - FAILURE_RATE / checks, count, min(1.0, near))
        assert low <= seen <= high, (value, p)
    assert all(any(other == value or abs(value - other) <= 2e-9 for value in want) for other in found)
    if -math.inf in found:
        assert (outcome.mean_return, outcome.standard_error) == (-math.inf, math.inf)
    else:
        assert outcome.mean_return == pytest.approx(sum(found) / count, abs=1e-8)
        assert outcome.standard_error == pytest.approx(np.std(found, ddof=1) / math.sqrt(count), abs=1e-8)


# ---- refusals ------------------------------------------------------------------------------------------------------

ROWS = [[0.9, 0.1], [0.2, 0.8]]
SEES = ObservationModel(ROWS, ["left", "right"])
TIGER, HEARS = tiger()
DOOR = MDP([[[0.0, 1.0]], [[0.0, 1.0]]], [1.0, 0.0], state_names=["in", "out"], action_names=["go"])
SHOWN = ObservationModel.deterministic([0, 1], ["dark", "light"])
AGENT = BeliefPolicy(Policy([[1.0], [1.0]]), DOOR, SHOWN)
WORLD = TrajectoryModel(DOOR, -1.0, 5)
DOORS = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
HALLS = MDP(rooms().mdp.transitions, [0.4, 0.6, 0.0])
BELL = [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


def belief_of_rooms(table=BELL, **options):
    return BeliefPolicy(Policy(table, **options), rooms(), ObservationModel.deterministic([0, 0, 1]))


REFUSED = {
    "rows that do not sum to 1": (
        lambda: ObservationModel([[0.9, 0.2], [0.5, 0.5]]),
        r"probabilities\[0\] sums to 1.1",
    ),
    "a negative entry": (lambda: ObservationModel([[1.5, -0.5]]), r"probabilities\[0, 1\] is negative"),
    "not finite": (lambda: ObservationModel([[math.nan, 0.5]]), "is not finite"),
    "one axis": (lambda: ObservationModel([0.5, 0.5]), r"shape \[2\]; expected \[S, Z\] .* or \[A, S, Z\]"),
    "too few names": (lambda: ObservationModel(ROWS, ["left"]), "holds 1 different names among 1; expected 2"),
    "the same name twice": (lambda: ObservationModel(ROWS, ["x", "x"]), "holds 1 different names among 2; expected 2"),
    "a string for names": (lambda: ObservationModel(ROWS, "lr"), TypeError, "give a list of names"),
    "another first": (lambda: ObservationModel(ROWS, first=[[1.0]]), r"first has shape \[1, 1\]; expected \[S, Z\]"),
    "a first that sums to 2": (lambda: ObservationModel(ROWS, first=[[1.0, 1.0]] * 2), r"first\[0\] sums to 2"),
    "fractions shown": (lambda: ObservationModel.deterministic([0.5, 1.0]), TypeError, "expected whole numbers"),
    "a number without a name": (
        lambda: ObservationModel.deterministic([0, 2], ["a", "b"]),
        r"observations\[1\] is 2; there are 2 observations: give 0 to 1",
    ),
    "a table shown": (lambda: ObservationModel.deterministic([[0], [1]]), r"shape \[2, 1\]; expected \[S\]"),
    "states that do not fit": (
        lambda: filter_states(rooms(), SEES, [0], []),
        "for 2 states, and the process has 3; give one row for each state",
    ),
    "actions that do not fit": (
        lambda: filter_states(DOOR, HEARS, [None], []),
        "for 3 actions, and the process has 1",
    ),
    "no process": (lambda: filter_states(HEARS, HEARS, [None], []), TypeError, "a TrajectoryModel or an MDP"),
    "a bare table": (lambda: filter_states(TIGER, ROWS, [0], []), TypeError, r"wrap the array in ObservationModel"),
    "an unknown observation": (
        lambda: filter_states(TIGER, SEES, ["left", "up"], [0]),
        r"observations\[1\]: no observation is called 'up'; names are left, right",
    ),
    "a name where there are none": (
        lambda: filter_states(TIGER, ObservationModel(ROWS), ["left"], []),
        r"observations\[0\]: no observation is called 'left'; observations have no names here",
    ),
    "a number too large": (
        lambda: filter_states(TIGER, SEES, [0, 2], [0]),
        r"observations\[1\]: observation 2 does not exist; observations are 0 to 1",
    ),
    "a fraction": (
        lambda: filter_states(TIGER, SEES, torch.tensor([0.0]), []),
        TypeError,
        r"observations\[0\]: 0.0 is no observation; give its number or its name",
    ),
    "a bool": (lambda: filter_states(TIGER, SEES, [True], []), TypeError, "True is no observation"),
    "an unknown action": (
        lambda: smooth_states(TIGER, SEES, [0, 0], ["hum"]),
        r"actions\[0\]: no action is called 'hum'; names are listen, open-left, open-right",
    ),
    "an action too large": (
        lambda: smooth_states(TIGER, SEES, [0, 0], [3]),
        r"actions\[0\]: action 3 does not exist; actions are 0 to 2",
    ),
    "no action": (lambda: filter_states(TIGER, SEES, [0, 0], [None]), TypeError, r"actions\[0\]: None is no action"),
    "no list": (lambda: filter_states(TIGER, SEES, 0, [0]), TypeError, "observations is 0; give a list"),
    "one string": (lambda: filter_states(TIGER, SEES, "left", []), TypeError, "observations is 'left'; give a list"),
    "too few observations": (
        lambda: filter_states(TIGER, SEES, [0, 0], [0, 0]),
        "a run of 2 actions has 3 observations, and 2 are given; o_1 comes before the first action",
    ),
    "no None at first": (
        lambda: filter_states(TIGER, HEARS, [0, 0], [0, 0]),
        r"3 observations, and 2 are given; nothing is observed before .*: \[None, \*observations\]",
    ),
    "a first observation that cannot be": (
        lambda: filter_states(TIGER, HEARS, ["hear-right", 0], [0]),
        r"observations\[0\] is hear-right, but nothing is observed .* put None first, or give .*first=",
    ),
    "the impossible": (
        lambda: filter_states(DOOR, SHOWN, ["dark", "light", "dark"], ["go", "go"]),
        r"observation dark at time index 2 has probability 0 after action go: .* possible then were out \(1\)",
    ),
    "the impossible at first": (
        lambda: observation_log_likelihood(DOOR, SHOWN, ["light"], []),
        r"observation light at time index 0 has probability 0: the states possible then were in \(1\)",
    ),
    "an action that may not exist": (
        lambda: filter_states(rooms(), ObservationModel.deterministic([0, 0, 1]), [0, 0], ["east-door"]),
        "east-door at time index 0 is not available in state west, which is believed with probability 0.4",
    ),
    "no policy": (lambda: BeliefPolicy(BELL, DOOR, SHOWN), TypeError, r"Policy\(table\)"),
    "a policy for others": (
        lambda: BeliefPolicy(Policy(BELL), DOOR, SHOWN),
        "for 3 states and 3 actions; the process has 2 and 1",
    ),
    "a step too far": (
        lambda: (belief := belief_of_rooms([BELL]), belief.observe("bell", 0), belief.probs()),
        r"time index 1 is outside the policy, which knows steps 0 to 0; reset\(\)",
    ),
    "a policy of doors": (
        lambda: belief_of_rooms(DOORS).probs(),
        r"are east \(0.6\), west \(0.4\), and the policy takes none .* in all of them \(bell\); .*'stochastic'",
    ),
    "nothing in common": (
        lambda: BeliefPolicy(
            Policy([[1.0, 0.0], [0.0, 1.0]]),
            MDP(torch.eye(2)[:, None].repeat(1, 2, 1), [0.5, 0.5], available=[[True, False], [False, True]]),
            ObservationModel.deterministic([0, 0]),
        ).probs(),
        r"possible are 0 \(0.5\), 1 \(0.5\), and no action exists in all of them; let an observation",
    ),
    "a surprised agent": (
        lambda: BeliefPolicy(Policy([[1.0], [1.0]]), DOOR, SHOWN).reset("light"),
        "observation light at time index 0 has probability 0",
    ),
    "an agent that hears too early": (
        lambda: BeliefPolicy(Policy([[0.2, 0.4, 0.4]] * 2), TIGER, HEARS).reset(0),
        r"nothing is observed before the first action .* first=\[S, Z\]",
    ),
    "no world": (lambda: simulate(AGENT, DOOR), TypeError, "the world is a MDP; expected a TrajectoryModel"),
    "no agent": (lambda: simulate(Policy([[1.0], [1.0]]), WORLD), TypeError, "expected a BeliefPolicy"),
    "no step": (lambda: simulate(AGENT, WORLD, 0), "num_steps is 0; expected a whole number from 1 to the horizon, 5"),
    "beyond the horizon": (lambda: simulate(AGENT, WORLD, 6), "num_steps is 6"),
    "no end": (
        lambda: simulate(AGENT, WORLD.replace(horizon=math.inf, discount=0.5)),
        "the horizon is infinite; say how many steps at most",
    ),
    "one rollout": (lambda: evaluate_belief_policy(AGENT, WORLD, 1), "num_rollouts is 1; a standard error needs"),
    "a world of others": (lambda: evaluate_belief_policy(AGENT, rooms(), 10), "the policy is for 2 states"),
    "an agent that takes the rooms for one": (
        lambda: evaluate_belief_policy(BeliefPolicy(Policy(DOORS), HALLS, ObservationModel([[1.0]] * 3)), rooms(), 99),
        r"at time index 0 the agent takes action (west|east)-door, which is not available in state (east|west) of",
    ),
}


@refuse(REFUSED)
def test_refusals(build, error, pattern):
    check(build, error, pattern)
