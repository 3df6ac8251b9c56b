"""Mean, spread and worst returns over infinite horizons: exact moments in rationals, and laws that are known."""

import math
import random
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch

from cai import MDP, Policy, TrajectoryModel, evaluate
from cai.models import OutcomeReward

Z = 5.0


def solved(matrix, side):
    """x of A x = b by elimination in rationals."""
    rows = [[*row, value] for row, value in zip(matrix, side, strict=True)]
    for k in range(len(rows)):
        pivot = next(i for i in range(k, len(rows)) if rows[i][k])
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [entry / rows[k][k] for entry in rows[k]]
        for i in range(len(rows)):
            if i != k and rows[i][k]:
                rows[i] = [a - rows[i][k] * b for a, b in zip(rows[i], rows[k], strict=True)]
    return [row[-1] for row in rows]


def random_case(seed, *, discount, terminal, listed, scale=1.0):
    """A random problem with rewards of outcomes, a policy, and its moves [(s, s', chance, reward)], the end last."""
    source = random.Random(seed)
    size, width = source.randint(1, 5), source.randint(1, 3)
    size = max(size, 2) if terminal else size

    def row(number):
        weights = [source.choice([0, 1, 1, source.random()]) for _ in range(number)]
        weights = weights if sum(weights) else [1] * number
        return [weight / sum(weights) for weight in weights]

    targets = [[[source.randrange(size) for _ in range(3)] for _ in range(width)] for _ in range(size)]
    chances = [[row(3) for _ in range(width)] for _ in range(size)]
    rewards = [[[scale * source.choice([0.0, 1.0, source.uniform(-2, 2)]) for _ in range(3)] for _ in range(width)]
               for _ in range(size)]  # fmt: skip
    if terminal:
        for state in range(size):  # from everywhere to the terminal state, seldom
            targets[state][0][0], chances[state] = size - 1, [[0.01, 0.49, 0.5]] * width
            targets[state] = [targets[state][0]] * width
        rewards[-1], targets[-1] = [[0.0] * 3] * width, [[size - 1] * 3] * width
    policy, start = [row(width) for _ in range(size)], row(size)
    options = {"terminal": [size - 1]} if terminal else {}
    if listed:
        mdp, paid = MDP.from_successors(targets, chances, initial=start, **options), rewards
    else:
        table = np.zeros((size, width, size))
        paid = np.zeros((size, width, size))
        for s in range(size):
            for a in range(width):
                for k in range(3):
                    table[s, a, targets[s][a][k]] += chances[s][a][k]
                    paid[s, a, targets[s][a][k]] = rewards[s][a][k]
        mdp = MDP(table, start, **options)
    reward = OutcomeReward(torch.tensor(paid, dtype=torch.float64)) if listed else torch.tensor(paid)
    model = TrajectoryModel(mdp, reward, horizon=math.inf, discount=discount)
    moves = []
    for s in range(size - terminal):
        probs = [[Fraction(float(p)) for p in mdp.probabilities[s, a]] for a in range(width)]
        total = sum(Fraction(p) * sum(probs[a]) for a, p in enumerate(policy[s]))
        for a in range(width):
            for k, p in enumerate(probs[a]):
                where = targets[s][a][k] if listed else k
                moves.append((s, where, Fraction(policy[s][a]) * p / total, Fraction(float(paid[s][a][k]))))
    return model, Policy(torch.tensor(policy, dtype=torch.float64)), moves, start


def moments(model, moves, start, *, terminal):
    """(mean, standard deviation) of the return from E[G^2] = E[r^2] + 2 E[r G'] + E[G'^2] in rationals."""
    size, keep = model.mdp.num_states, Fraction(model.discount)
    zero = Fraction(0)
    matrix = [[Fraction(int(i == j)) for j in range(size)] for i in range(size)]
    first, second = [zero] * size, [zero] * size
    for s, following, p, r in moves:
        matrix[s][following] -= keep * p
        first[s] += p * r
    mean = solved(matrix, first)
    for s, following, p, r in moves:
        second[s] += p * r * (r + 2 * keep * (0 if terminal and following == size - 1 else mean[following]))
    square = solved(matrix, second)
    weights = [Fraction(p) for p in start]
    weights = [p / sum(weights) for p in weights]
    whole = sum((p * m for p, m in zip(weights, mean, strict=True)), zero)
    variance = sum((p * m for p, m in zip(weights, square, strict=True)), zero) - whole * whole
    size = max((abs(r) for *_, r in moves), default=zero) or Fraction(1)  # squares of 1e-200 are no floats
    return float(whole), math.sqrt(variance / size**2) * float(size)


@pytest.mark.parametrize(("discount", "terminal", "scale"), [
    (0.9, False, 1.0), (0.9, True, 1e-200), (1.0, True, 1.0), (1 - 1e-9, False, 1.0), (1 - 1e-12, False, 1e6),
    (1 - 1e-6, True, 1.0),
])  # fmt: skip
@pytest.mark.parametrize("listed", [False, True])
def test_standard_deviation_is_that_of_the_second_moment_in_rationals(monkeypatch, discount, terminal, scale, listed):
    monkeypatch.setattr(sys.modules["cai.evaluation.endless_rollouts"], "WORK", 10_000)
    for seed in range(6):
        case = random_case(seed, discount=discount, terminal=terminal, listed=listed, scale=scale)
        model, policy, moves, start = case
        mean, spread = moments(model, moves, start, terminal=terminal)
        outcome = evaluate(policy, model, num_rollouts=10)
        size = scale / max(1 - discount, 1e-2 if terminal else 0.0)  # the longest sum
        assert outcome.expected_return == pytest.approx(mean, rel=1e-9, abs=1e-12 * size)
        assert outcome.std == pytest.approx(spread, rel=1e-7, abs=1e-10 * scale)
        assert outcome.standard_error == pytest.approx(outcome.std / math.sqrt(10), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("listed", [False, True])
def test_returns_are_those_of_a_plain_simulation(seed, listed):
    """Mean, spread and the mean of the worst tenth against chains that are followed to their ends one by one."""
    model, policy, moves, start = random_case(seed, discount=0.9, terminal=seed % 2 == 1, listed=listed)
    draws, number = np.random.default_rng(seed), 4000
    by_state = {s: [move for move in moves if move[0] == s] for s, *_ in moves}
    shares = {s: np.array([float(p) for _, _, p, _ in rows]) for s, rows in by_state.items()}
    returns = []
    for _ in range(number):
        state, total = int(draws.choice(len(start), p=start)), 0.0
        while state in by_state:
            _, state, _, paid = by_state[state][draws.choice(len(shares[state]), p=shares[state] / shares[state].sum())]
            total += float(paid)
            if draws.random() > 0.9:
                break
        returns.append(total)
    outcome = evaluate(policy, model, num_rollouts=number, tail=0.1, seed=seed)
    spread = max(np.std(returns), 1e-12)
    assert outcome.cut == 0
    for share in (0.05, 0.1, 0.25, 0.5, 0.9):  # as many samples of each lie below a quantile of the other
        below = np.mean(outcome.returns.numpy() <= np.quantile(returns, share) + 1e-9 * spread)
        other = np.mean(np.array(returns) <= np.quantile(returns, share) + 1e-9 * spread)
        assert below == pytest.approx(other, abs=Z * math.sqrt(2 * other * (1 - other) / number) + 1e-9)
    worst = np.sort(returns)[: number // 10].mean()
    assert outcome.cvar == pytest.approx(worst, abs=Z * spread / math.sqrt(number / 10) + 1e-12)
    assert outcome.std == pytest.approx(np.std(returns), rel=0.15, abs=1e-9)


def test_worst_returns_of_chains_that_end_too_late_for_rollouts():
    """A reward of 1 a step until a geometric end: all rollouts are cut, and the law of returns is exponential."""
    discount = 1 - 1e-9
    model = TrajectoryModel(MDP([[[1.0]]], [1.0]), [1.0], horizon=math.inf, discount=discount)
    outcome = evaluate(Policy([[1.0]]), model, num_rollouts=2000)
    length = 1 / (1 - discount)
    assert outcome.cut == 2000
    assert outcome.std == pytest.approx(length * math.sqrt(discount), rel=1e-12)
    worst = length * (0.95 * math.log(0.95) + 0.05) / 0.05
    assert outcome.cvar == pytest.approx(worst, rel=Z * 0.6 / math.sqrt(100))


def test_worst_returns_of_long_chains_without_a_drift():
    """Fair coins for +-1 until a geometric end: returns tend to Laplace's law."""
    discount = 1 - 1e-9
    mdp = MDP.from_successors([[[0, 0]]], [[[0.5, 0.5]]], initial=[1.0])
    model = TrajectoryModel(mdp, OutcomeReward(torch.tensor([[[1.0, -1.0]]])), horizon=math.inf, discount=discount)
    outcome = evaluate(Policy([[1.0]]), model, num_rollouts=2000)
    scale = 1 / math.sqrt(2 * (1 - discount))
    assert outcome.cut == 2000
    assert outcome.std == pytest.approx(math.sqrt(2) * scale, rel=1e-12)
    assert outcome.cvar == pytest.approx(-scale * (1 + math.log(10)), rel=Z * 0.5 / math.sqrt(100))


def test_what_is_left_may_be_known_without_an_end():
    """A toss and then nothing for ever; the rollouts end where nothing can change their return any more."""
    mdp = MDP.from_successors(
        [[[1, 2]], [[2, 2]], [[2, 2]]], [[[0.25, 0.75]], [[1.0, 0.0]], [[1.0, 0.0]]], initial=[1.0, 0.0, 0.0]
    )
    model = TrajectoryModel(
        mdp, OutcomeReward(torch.tensor([[[0.0, 0.0]], [[-8.0, 0.0]], [[0.0, 0.0]]])), horizon=math.inf
    )
    outcome = evaluate(Policy([[1.0]] * 3), model, num_rollouts=400)
    assert outcome.cut == 0
    assert set(outcome.returns.tolist()) == {-8.0, 0.0}
    assert (outcome.expected_return, outcome.std) == (-2.0, pytest.approx(8 * math.sqrt(3) / 4))


def test_certain_returns_have_no_spread():
    """A circuit of 1,000 states that ends: no rounding of large values is taken for luck."""
    number = 1000
    following = [[[min(s + 1, number - 1)]] for s in range(number)]
    mdp = MDP.from_successors(following, [[[1.0]]] * number, [1.0] + [0.0] * (number - 1), terminal=[number - 1])
    model = TrajectoryModel(mdp, -0.1, horizon=math.inf)
    outcome = evaluate(Policy([[1.0]] * number), model, num_rollouts=10)
    assert outcome.expected_return == pytest.approx(-0.1 * (number - 1), rel=1e-12)
    assert outcome.std < 1e-11
    assert outcome.cut == 0


def test_forbidden_outcomes_that_are_met_seldom():
    mdp = MDP.from_successors([[[0, 0]]], [[[1 - 1e-12, 1e-12]]], initial=[1.0])
    model = TrajectoryModel(mdp, OutcomeReward(torch.tensor([[[1.0, -math.inf]]])), horizon=math.inf, discount=0.9)
    outcome = evaluate(Policy([[1.0]]), model, num_rollouts=50)
    assert (outcome.expected_return, outcome.std) == (-math.inf, math.inf)
    assert torch.isfinite(outcome.returns).all()


def test_a_forbidden_outcome_elsewhere_changes_nothing():
    """Half of the start goes where -inf may follow: the other half is followed to its own end."""
    mdp = MDP.from_successors([[[0, 0]], [[1, 1]]], [[[0.5, 0.5]], [[0.5, 0.5]]], initial=[0.5, 0.5])
    rewards = OutcomeReward(torch.tensor([[[1.0, 0.0]], [[-math.inf, 0.0]]]))
    model = TrajectoryModel(mdp, rewards, horizon=math.inf, discount=0.5)
    outcome = evaluate(Policy([[1.0]] * 2), model, num_rollouts=400)
    assert outcome.cvar == -math.inf
    finite = outcome.returns[torch.isfinite(outcome.returns)]
    assert 200 < len(finite) < 400
    assert float(finite.max()) >= 2


def test_what_is_forbidden_where_the_policy_never_comes_says_nothing():
    mdp = MDP.from_successors([[[0], [1]], [[1], [1]]], [[[1.0], [1.0]]] * 2, initial=[1.0, 0.0])
    model = TrajectoryModel(mdp, torch.tensor([[1.0, -math.inf], [-math.inf, 2.0]]), horizon=math.inf, discount=0.5)
    outcome = evaluate(Policy([[1.0, 0.0]] * 2), model, num_rollouts=400)
    assert (outcome.expected_return, outcome.std) == (pytest.approx(2.0), pytest.approx(math.sqrt(2)))
    assert float(outcome.returns.mean()) == pytest.approx(2.0, abs=Z * outcome.standard_error)


@pytest.mark.parametrize(("first", "expected"), [([1.0, 0.0], -math.inf), ([0.0, 1.0], 2.0)])
def test_what_is_forbidden_on_the_way_to_the_long_run_counts(first, expected):
    """T steps earn -inf with probability 1/2, whatever T is; so does a step on average."""
    following = [[[1, 2], [2, 2]], [[2, 2], [2, 2]], [[2, 2], [2, 2]]]
    mdp = MDP.from_successors(following, [[[0.5, 0.5]] * 2] * 3, 0)
    rewards = [[0.0, 0.0], [-math.inf, -math.inf], [2.0, 2.0]]
    model = TrajectoryModel(mdp, rewards, math.inf, criterion="average")
    policy = Policy([[first, [0.5, 0.5], [0.5, 0.5]]], stationary=True)
    outcome = evaluate(policy, model, num_rollouts=10)
    assert outcome.expected_return == expected
    assert outcome.std == (math.inf if expected < 0 else 0)
    ahead = TrajectoryModel(mdp, rewards, 10)
    assert math.isfinite(evaluate(policy, ahead, num_rollouts=10).expected_return) == math.isfinite(expected)
