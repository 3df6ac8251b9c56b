"""Infinite horizons of dense problems, which are solved by tables: against the lists of small ones, and plain loops."""

import math

import numpy as np
import pytest
import torch

import cai
from cai.inference import Status
from cai.inference.tabular.believed_dynamics import TiltedDynamics
from cai.inference.tabular.markov.full_systems import FullPattern
from cai.inference.tabular.markov.linear_systems import SystemPattern
from cai.inference.tabular.recursion import tilted_recursion
from cai.inference.tabular.stationary.problem import edges
from cai.inference.tabular.stationary.problem.listing import steps_of
from cai.models import MDP, TrajectoryModel

INF = math.inf
BACKENDS = [
    "exact",
    "variational",
    "risk:eta=-2",
    "risk:eta=0.5",
    "risk:eta=-inf",
    "value-iteration",
    "value-iteration:successors=best",
    "value-iteration:successors=worst",
]


def problem(seed, number=7, criterion="total"):
    """A random model of few states, with zeros, masks, rare exits, and rewards of every shape and sign."""
    rng = np.random.default_rng(seed)
    actions = int(rng.integers(1, 4))
    chances = rng.dirichlet(np.full(number, 0.7), size=(number, actions)) * (
        rng.random((number, actions, number)) < 0.8
    )
    if seed % 5 == 0 and number % 2 == 0:
        chances *= (np.add.outer(np.arange(number), np.arange(number)) % 2 == 1)[:, None]
    empty = chances.sum(-1) == 0
    chances[empty] = np.eye(number)[rng.integers(0, number, int(empty.sum()))]
    discount = 1.0 if criterion == "average" else float(rng.choice([0.5, 0.99, 1 - 1e-6, 1.0]))
    terminal = [number - 1] if criterion == "total" and (discount == 1 or rng.random() < 0.3) else []
    rewards = rng.normal(size=[(number,), (number, actions), (number, actions, number)][seed % 3])
    rewards *= 10.0 ** rng.integers(-3, 1)
    if rng.random() < 0.7:
        rewards = -np.abs(rewards)
    if rng.random() < 0.3:
        rewards = rewards * (rng.random(rewards.shape) < 0.5)
    chances /= chances.sum(-1, keepdims=True)
    if terminal:
        leak = float(rng.choice([0.2, 1e-3, 1e-9]))
        chances *= 1 - leak
        chances[..., -1] += leak
        chances[-1] = np.eye(number)[-1]
        rewards[-1] = 0.0
    prior = rng.dirichlet(np.ones(actions), size=number) * (rng.random((number, actions)) < 0.9) + 1e-3 * np.eye(
        1, actions
    )
    mdp = MDP(chances, rng.dirichlet(np.ones(number)), terminal=terminal, axes="state-action-state")
    return TrajectoryModel(
        mdp,
        rewards,
        horizon=INF,
        discount=discount,
        action_prior=prior / prior.sum(-1, keepdims=True),
        temperature=float(rng.choice([1.0, 0.3])),
        criterion=criterion,
    )


@pytest.fixture
def tables(monkeypatch):
    """Makes tables of problems of any size, of which a tenth of the outcomes may happen."""

    def use():
        monkeypatch.setattr(edges, "LONG_LIMIT", 0)
        monkeypatch.setattr(edges, "FILL", 0.1)

    return use


def agree(listed, tabled):
    """Two answers, by lists in long double and by tables in float64: one status, values to within their bounds."""
    assert listed.status is tabled.status
    if not listed.status.ok:
        return
    bound = listed.details["error_bound"] + tabled.details["error_bound"]
    start = listed.model.mdp.initial > 0
    torch.testing.assert_close(tabled.values[0][start], listed.values[0][start], rtol=0, atol=bound)
    for name in ("believed_return", "policy_divergence"):
        torch.testing.assert_close(getattr(tabled, name), getattr(listed, name), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tables_and_lists_have_one_answer(backend, tables):
    models = [problem(seed, 4 + seed % 5) for seed in range(8)]
    listed = [cai.infer(model, backend, throw=False) for model in models]
    tables()
    assert all(steps_of(model, 0.0, False).table is not None for model in models)
    for model, found in zip(models, listed, strict=True):
        agree(found, cai.infer(model, backend, throw=False))


def two_rooms():
    """Two pairs of states, in each of which one may stay for nothing; leaving costs 1, or earns 1."""
    stays = np.kron(np.eye(2), np.full((2, 2), 0.5))
    chances = np.zeros((5, 2, 5))
    chances[:4, 0, :4], chances[:4, 1], chances[4, :, 4] = stays, 0.2, 1.0
    rewards = np.array([[0.0, -1.0], [0.0, -1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    return TrajectoryModel(MDP(chances, [1.0, 0, 0, 0, 0], terminal=[4]), rewards, horizon=INF)


@pytest.mark.parametrize("model", [problem(1), problem(4), two_rooms()], ids=["idle", "idle too", "two rooms"])
def test_tables_know_where_hard_control_may_stay_for_nothing(model, tables):
    listed = cai.infer(model, "value-iteration")
    tables()
    agree(listed, cai.infer(model, "value-iteration"))


@pytest.mark.parametrize("backend", ["exact", "variational", "risk:eta=-2", "value-iteration"])
def test_tables_and_lists_have_one_gain(backend, tables):
    models = [problem(seed, 4 + seed % 5, "average") for seed in (1, 2, 3, 4, 6)]
    kept = []
    for model in models:
        try:
            kept.append((model, cai.infer(model, backend, throw=False)))
        except ValueError:  # several classes
            continue
    assert len(kept) >= 3
    tables()
    for model, found in kept:
        tabled = cai.infer(model, backend, throw=False)
        agree(found, tabled)
        torch.testing.assert_close(tabled.gain, found.gain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 1.0, -2.0])
def test_a_table_lists_what_a_list_holds(eta, tables):
    """Every digit of long double, of the whole and of a part of it."""
    models = [problem(seed) for seed in range(12)]
    listed = [steps_of(model, eta, False) for model in models]
    tables()
    for model, one in zip(models, listed, strict=True):
        other = steps_of(model, eta, False)
        assert one.table is None
        assert other.table is not None
        rng = np.random.default_rng(0)
        offered = np.isin(np.arange(one.number), one.states)
        states = offered & (rng.random(one.number) < 0.8)
        states[0] = True
        worth = np.append(rng.normal(size=one.number), 0.0)
        pairs, ways = rng.random(len(one.states)) < 0.9, np.ones(one.count, dtype=bool)
        pairs[one.first_pairs[offered]] = True
        parts = [whole.select(pairs, ways, states, worth) for whole in (one, other)]
        for a, b in ((one, other), parts):
            for name in ("states", "actions", "pairs", "targets", "chances", "gains", "rewards", "prior", "refused"):
                np.testing.assert_allclose(
                    getattr(a, name).astype(np.longdouble),
                    getattr(b, name).astype(np.longdouble),
                    rtol=1e-18,
                    atol=1e-19,
                )
        values = rng.normal(size=parts[0].number)
        moved = [part.at(np.float64).moves(part.at(np.float64).values(values)) for part in parts]
        for name in ("delta", "advantages", "policy", "weights"):
            want = getattr(moved[0], name).astype(np.float64)
            np.testing.assert_allclose(getattr(moved[1], name), want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [1e-6, 1.0, 30.0, 1e3, 1e12])
@pytest.mark.parametrize("eta", [0.0, 1.0, -2.0, 1e-3, INF, -INF])
def test_rounding_of_a_table_is_as_it_says(eta, size, tables):
    """In float64 against the list in long double; for values near each other and far apart."""
    models = [problem(seed) for seed in range(12)]
    listed = [steps_of(model, eta, False) for model in models]
    tables()
    for seed, (model, one) in enumerate(zip(models, listed, strict=True)):
        rng, offered = np.random.default_rng(seed), np.isin(np.arange(one.number), one.states)
        states = offered & ((rng.random(one.number) < 0.8) | (np.arange(one.number) == 0))
        worth = np.append(rng.normal(size=one.number), 0.0)
        every = np.ones(len(one.states), dtype=bool), np.ones(one.count, dtype=bool)
        parts = [whole.select(*every, states, worth) for whole in (one, steps_of(model, eta, False))]
        assert parts[0].table is None
        assert parts[1].table is not None
        values = size * rng.normal(size=parts[0].number)
        exact, near, found = (part.moves(part.values(values)) for part in (parts[0], parts[0].at(np.float64), parts[1]))
        rounding = 3 * np.finfo(np.float64).eps * found.sizes
        assert (np.abs(found.advantages - exact.advantages) <= rounding).all()
        assert (np.abs(found.delta - exact.delta) <= found.rounding).all()
        assert (found.sizes <= 8 * near.sizes + 4 * np.abs(values).max()).all()
        np.testing.assert_allclose(found.weights, exact.weights.astype(float), rtol=1e-11, atol=1e-13)
        if math.isfinite(eta):
            ways = np.zeros((parts[1].number, parts[1].number + 1))
            np.add.at(ways, (parts[0].sources, parts[0].targets), exact.weights.astype(float))
            chain = np.zeros_like(ways)
            np.add.at(chain.T, parts[1].table.columns, found.chain.T)
            np.testing.assert_allclose(chain, ways, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backend", ["exact", "variational", "value-iteration"])
@pytest.mark.parametrize("discount", [0.8, 1.0])
def test_a_dense_problem_against_plain_loops(backend, discount):
    """The size from which problems are tables by themselves; backups from 0, in long double."""
    rng = np.random.default_rng(5)
    number, actions, leak = 190, 3, 0.2
    chances = rng.dirichlet(np.ones(number), size=(number, actions))
    rewards = -rng.random((number, actions))
    terminal = [number - 1] if discount == 1 else []
    if terminal:
        chances = (1 - leak) * chances + leak * np.eye(number)[-1]
        chances[-1], rewards[-1] = np.eye(number)[-1], 0.0
    model = TrajectoryModel(
        MDP(chances, np.full(number, 1 / number), terminal=terminal), rewards, horizon=INF, discount=discount
    )
    assert steps_of(model, 1.0, False).table is not None
    found = cai.infer(model, backend)
    values, nonterminal = np.zeros(number, np.longdouble), np.arange(number) < number - len(terminal)
    moves = chances.astype(np.longdouble)
    moves /= moves.sum(-1, keepdims=True)
    for _ in range(250):
        if backend == "exact":
            q_values = rewards + np.log(moves @ (discount * np.exp(values) + 1 - discount))
        else:
            q_values = rewards + discount * (moves @ values)
        values = q_values.max(-1) if backend == "value-iteration" else np.log(np.exp(q_values).mean(-1))
        values = np.where(nonterminal, values, 0.0)
    error = np.abs(found.values[0].numpy() - values).max()
    assert found.status is Status.SUCCESS
    assert error <= found.details["error_bound"] < 1e-10


def test_a_full_system_is_solved_as_a_listed_one():
    rng = np.random.default_rng(1)
    for number, leak in ((3, 0.1), (155, 1e-3)):
        chances = rng.dirichlet(np.ones(number), size=number) * (1 - leak)
        order = torch.arange(number)
        patterns = (SystemPattern(order.repeat_interleave(number), order.repeat(number), number), FullPattern(number))
        for exits in (torch.full((number,), leak, dtype=torch.float64), None):
            sides = torch.from_numpy(rng.random((number, 2)))
            for transposed in (False, True):
                answers, slopes = [], []
                for pattern in patterns:
                    weights = torch.from_numpy(chances.ravel().copy()).requires_grad_()
                    answers.append(pattern.system(weights, exits).solve(sides, transposed=transposed))
                    answers[-1].square().mean().backward()
                    slopes.append(weights.grad)
                torch.testing.assert_close(answers[1], answers[0], rtol=1e-11, atol=1e-12)
                torch.testing.assert_close(slopes[1], slopes[0], rtol=1e-10, atol=1e-12)
                matrix = torch.eye(number, dtype=torch.float64) - torch.from_numpy(chances)
                want = torch.linalg.solve(matrix.T if transposed else matrix, sides)
                torch.testing.assert_close(answers[1].detach(), want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("eta", [1.0, -1.0, 0.2])
@pytest.mark.parametrize("size", [1e-12, 1.0, 50.0])
@pytest.mark.parametrize("sign", [0, 1, -1])
def test_backups_and_beliefs_of_dense_problems_are_those_of_their_rows(eta, size, sign):
    """Products of matrices against sums row by row: q-values, and where the chain goes by a policy."""
    rng = np.random.default_rng(7)
    number, actions = 190, 3
    chances = rng.dirichlet(np.full(number, 0.1), size=(number, actions))
    chances[-1] = np.eye(number)[-1]
    rewards = rng.normal(size=(number, actions)) * (np.arange(number) < number - 1)[:, None]
    mdp = MDP(chances, np.full(number, 1 / number), terminal=[number - 1])
    model = TrajectoryModel(mdp, rewards, horizon=INF, discount=0.9)
    worth = size * (rng.normal(size=number) if sign == 0 else sign * rng.random(number))
    worth[-1] = 0.0
    values = torch.from_numpy(worth)
    table, long = model.mdp.probabilities.numpy().astype(np.longdouble), worth.astype(np.longdouble)
    outcomes = np.concatenate([0.9 * table, 0.1 * table], -1)
    following = np.append(long, np.zeros(number))
    tilted = outcomes * np.exp(eta * following)
    equivalents = np.log1p((outcomes * np.expm1(eta * following)).sum(-1)) / eta
    want = rewards + equivalents
    q_values = tilted_recursion(eta).backup(model, values, 0).numpy()
    nonterminal = np.arange(number) < number - 1
    np.testing.assert_allclose(
        q_values[nonterminal], want[nonterminal].astype(float), rtol=1e-13, atol=1e-14 * max(1.0, size)
    )
    policy = rng.dirichlet(np.ones(actions), size=number)
    moves, falls = TiltedDynamics(model, torch.stack([values, values]), eta).onward(torch.from_numpy(policy))
    tilted /= tilted.sum(-1, keepdims=True)
    tilted[~nonterminal] = np.append(table[-1], 0 * table[-1], -1)
    chain = np.einsum("sa,sak->sk", policy, tilted).astype(float)
    np.testing.assert_allclose(moves[:, 0], chain[:, :number], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(falls[:, 0, 0], chain[:, number:].sum(-1), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("criterion", ["total", "average"])
@pytest.mark.parametrize("kind", ["alike", "each", "none below 0"])
def test_best_outcomes_of_a_dense_problem_against_plain_loops(kind, criterion):
    """Pairs that another beats are left out: the values, and a policy that never takes them."""
    rng = np.random.default_rng(3)
    number, actions = 40, 80
    chances = rng.dirichlet(np.ones(number), size=(number, actions))
    rewards = -rng.integers(0, 9, size=(number, actions, number if kind == "each" else 1)) / 4.0
    if kind == "none below 0":
        rewards[:, ::2] = 0.0
    rewards = rewards if kind == "each" else rewards[..., 0]
    options = {"discount": 0.75} if criterion == "total" else {"criterion": criterion}
    model = TrajectoryModel(MDP(chances, np.full(number, 1 / number)), rewards, horizon=INF, **options)
    assert steps_of(model, INF, True).table is not None
    found = cai.infer(model, "value-iteration:successors=best")
    assert found.status is Status.SUCCESS
    gains = rewards if kind == "each" else rewards[..., None]
    values = np.zeros(number)
    for _ in range(100):
        following = np.maximum(values, 0.0) if criterion == "total" else values
        q_values = (gains + following).max(-1)
        values = q_values.max(-1)
    np.testing.assert_allclose(
        found.values[0].numpy(), values - (values.mean() - found.values[0].mean().item()), atol=1e-12
    )
    taken = found.action_probs[0].numpy() > 0
    assert (q_values[taken] >= np.broadcast_to(values[:, None], taken.shape)[taken] - 1e-12).all()
