"""The simulator step against the exact joint over every trajectory."""

import math
from collections import Counter, defaultdict

import pytest
import torch
from campaigns import over_seeds
from methods import FAILURE_RATE
from oracle import paths, random_problem
from scipy.stats import chi2

import cai
import cai.models.trajectory.simulate as simulate_module
from cai.models import MDP, OutcomeReward, Simulator, TrajectoryModel
from cai.models.trajectory.simulate import draw_rows, draw_start

COUNT = 4000


def fits(counts, chances):
    """Whether counts are draws from the chances, by a chi-square test over the cells that are not rare."""
    assert set(counts) <= {key for key, chance in chances.items() if chance > 0}
    total, statistic, cells, rare = sum(counts.values()), 0.0, 0, [0, 0.0]
    for key, chance in chances.items():
        if chance * total < 8:
            rare = [rare[0] + counts[key], rare[1] + chance * total]
            continue
        statistic += (counts[key] - chance * total) ** 2 / (chance * total)
        cells += 1
    if rare[1] >= 8:
        statistic, cells = statistic + (rare[0] - rare[1]) ** 2 / rare[1], cells + 1
    return cells < 2 or chi2.sf(statistic, cells - 1) > FAILURE_RATE


def joint(problem, temperature=None):
    """The probability (times exp(reward / temperature), where one is given) and the reward of every trajectory.

    A key is (start, steps); a step is (action, next state or S, outcome), the outcome 0 in a dead state.
    """
    chances, rewards = defaultdict(float), {}
    for start, chance in enumerate(problem.initial):
        for steps, probability, reward in paths(problem, start, 0) if chance else ():
            key = (start, *((a, problem.num_states if s is None else s, k) for _, a, s, k in steps))
            chances[key] += chance * probability * (math.exp(reward / temperature) if temperature else 1.0)
            rewards[key] = reward
    return chances, rewards


def rollouts(problem, seed):
    """The trajectories that the simulator draws under the action prior, as keys of `joint`, and their returns."""
    model, generator = problem.model, torch.Generator().manual_seed(seed)
    states, total = model.reset(COUNT, generator), torch.zeros(COUNT).double()
    columns, alive = [states], model.nonterminal[states]
    for t in range(problem.horizon):
        fallen = states == problem.num_states
        actions = draw_rows(model.action_prior[states.clamp(max=problem.num_states - 1)], generator)
        drawn = model.simulator.draw(states, actions, t, generator)
        assert bool((drawn.rewards[~alive] == 0).all())
        assert bool((drawn.next_states[~alive] == states[~alive]).all())
        shown = torch.where(alive, drawn.outcomes, 0)
        columns.append(torch.stack([actions, drawn.next_states, shown], -1).masked_fill(fallen[:, None], -1))
        states, alive, total = drawn.next_states, drawn.alive, total + drawn.rewards
        assert bool(
            (
                alive == ((states < problem.num_states) & model.nonterminal[states.clamp(max=model.mdp.num_states - 1)])
            ).all()
        )
    keys = []
    for row in zip(*(column.tolist() for column in columns), strict=True):
        keys.append((row[0], *(tuple(step) for step in row[1:] if step[0] >= 0)))
    return keys, total.tolist()


@pytest.mark.parametrize("number", [12, pytest.param(24, marks=pytest.mark.campaign)])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("looks_up", [True, False])
def test_trajectories_follow_the_joint_and_pay_what_it_says(scheduled, looks_up, number, monkeypatch):
    if not looks_up:
        monkeypatch.setattr(simulate_module, "TABLE_LIMIT", 0)
    met = set()
    for seed in range(number):
        problem = random_problem(seed + 7_000)
        if scheduled:
            scale = [0.5 + t for t in range(problem.horizon)]
            problem.model = problem.model.replace(reward=problem.model.reward.scheduled(scale))
            for row in (row for state in problem.outcomes for row in state):
                row[:] = [(chance, s, [r * c for r, c in zip(paid, scale, strict=True)]) for chance, s, paid in row]
        chances, rewards = joint(problem)
        keys, returns = rollouts(problem, seed)
        assert fits(Counter(keys), chances), seed
        for key, found in zip(keys, returns, strict=True):
            assert found == rewards[key] or abs(found - rewards[key]) < 1e-12
        met |= {"discount"} if problem.discount < 1 else set()
        met |= {"terminal"} if any(problem.terminal) else set()
        met |= {"forbidden"} if -math.inf in returns else set()
        met |= {"listed"} if not problem.model.mdp.is_dense else set()
    assert met == {"discount", "terminal", "forbidden", "listed"}


@over_seeds(range(16), quick=5)
def test_samples_of_an_exact_posterior_follow_its_joint(seeds):
    for seed in seeds:
        problem = random_problem(seed + 8_000)
        posterior = cai.infer(problem.model, "exact", throw=False)
        weights, _ = joint(problem, problem.temperature)
        evidence = math.fsum(weights.values())
        if evidence == 0:
            continue
        chances = defaultdict(float)
        for (start, *steps), weight in weights.items():
            chances[start, *((action, state) for action, state, _ in steps)] += weight / evidence
        states, actions = posterior.sample(COUNT, seed=seed)
        keys = []
        for row, taken in zip(states.tolist(), actions.tolist(), strict=True):
            fallen = row.index(problem.num_states) if problem.num_states in row else problem.horizon
            keys.append((row[0], *zip(taken[:fallen], row[1 : fallen + 1], strict=True)))
        assert fits(Counter(keys), chances), seed


def test_outcomes_that_share_a_next_state_pay_their_own_rewards():
    next_states, weights = torch.tensor([[[0, 0]], [[1, 1]]]), [[[0.25, 0.75]], [[1.0, 0.0]]]
    mdp = MDP.from_successors(next_states, weights, [1.0, 0.0])
    model = TrajectoryModel(mdp, OutcomeReward([[[3.0, -1.0]], [[0.0, 0.0]]]), horizon=1)
    drawn = model.simulator.draw(torch.zeros(COUNT).long(), torch.zeros(COUNT).long(), 0)
    assert bool((drawn.rewards == torch.where(drawn.outcomes == 0, 3.0, -1.0)).all())
    assert fits(Counter(drawn.rewards.tolist()), {3.0: 0.25, -1.0: 0.75})


def test_a_trajectory_model_is_a_simulator():
    model = random_problem(3).model
    assert isinstance(model, Simulator)
    states = model.reset(5, torch.Generator().manual_seed(0))
    actions = draw_rows(model.action_prior[states], torch.Generator().manual_seed(1))
    following, rewards, alive = model.step(states, actions, 0, torch.Generator().manual_seed(2))
    again = model.step(states, actions, 0, torch.Generator().manual_seed(2))
    assert bool((following == again.next_states).all())
    assert rewards.shape == alive.shape == (5,)
    assert alive.dtype == torch.bool


def test_the_global_random_state_is_left_alone():
    model, before = random_problem(3).model, torch.random.get_rng_state()
    model.simulator.returns(model.action_prior[None], 10, 3, torch.Generator().manual_seed(0))
    assert bool((torch.random.get_rng_state() == before).all())


def test_what_has_no_probability_is_never_drawn():
    rows = torch.tensor([[0.0, 1e-300, 0.0, 0.0], [0.0, 0.0, 0.0, 5.0], [2.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert draw_rows(rows.repeat(500, 1)).reshape(500, 3).unique(dim=0).tolist() == [[1, 3, 0]]
    weights = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0]).double()
    assert fits(Counter(draw_start(weights, COUNT).tolist()), {1: 0.3, 3: 0.7})
    with pytest.raises(IndexError):
        torch.zeros(4).index_select(0, draw_rows(torch.zeros(1, 4)))
