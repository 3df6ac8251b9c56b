"""Linear systems (I - M) x = b: dense, sparse and iterated against dense algebra, with their gradients."""

import functools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from campaigns import over_seeds

import cai
from cai.inference import Status, StructuredVariational, SumProduct
from cai.inference.tabular.believed_dynamics import FixedDynamics
from cai.inference.tabular.markov import iterated
from cai.inference.tabular.markov.chains import expected_visits
from cai.inference.tabular.markov.linear_systems import SystemPattern
from cai.inference.tabular.markov.reachability import edges_of, leads_to, reached_from
from cai.inference.tabular.methods.z_iteration import ZIteration
from cai.models import MDP, TrajectoryModel

INF = math.inf
METHODS = ["dense", "sparse", "iterate"]


def entries(seed, number, count, radius=0.9):
    """Random entries (rows, columns, weights) with places listed twice, scaled so that rho(M) = radius; and M."""
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(number, size=(2, count))
    weights = rng.random(count)
    matrix = np.zeros((number, number))
    np.add.at(matrix, (rows, columns), weights)
    scale = radius / max(np.abs(np.linalg.eigvals(matrix)).max(), 1e-300)
    return torch.tensor(rows), torch.tensor(columns), torch.tensor(weights * scale), matrix * scale


def forced(rows, columns, number, method):
    """A pattern that is solved by this method, whatever the rule says."""
    pattern = SystemPattern(rows, columns, number)
    pattern.__dict__["method"] = method  # where functools.cached_property keeps it
    return pattern


# ---- the solve ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transposed", [False, True])
@over_seeds(range(20), quick=7)
def test_solutions_are_those_of_dense_algebra(method, transposed, seeds):
    rng = np.random.default_rng(0)
    for seed in seeds:
        number = int(rng.integers(2, 40))
        rows, columns, weights, matrix = entries(seed, number, 4 * number)
        system = forced(rows, columns, number, method).system(weights)
        inverse = np.linalg.inv(np.eye(number) - matrix)
        inverse = inverse.T if transposed else inverse
        sides = rng.normal(size=(number, 3))
        got = system.solve(torch.tensor(sides), transposed=transposed).numpy()
        assert np.abs(got - inverse @ sides).max() <= 1e-11 * np.abs(inverse).sum(-1).max(), seed
        one = system.solve(torch.tensor(sides[:, 1]), transposed=transposed).numpy()
        assert one.shape == (number,)
        assert np.abs(one - got[:, 1]).max() <= 1e-12 * np.abs(inverse).sum(-1).max()
        lengths = np.linalg.solve(np.eye(number) - matrix, np.ones(number))
        assert np.allclose(system.lengths.numpy(), lengths, rtol=1e-11)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_first_and_second_order(method, transposed):
    rows, columns, weights, _ = entries(3, 6, 14, radius=0.5)
    sides = torch.tensor(np.random.default_rng(1).normal(size=(6, 2)))

    def solve(weights, sides):
        return forced(rows, columns, 6, method).system(weights).solve(sides, transposed=transposed)

    inputs = (weights.requires_grad_(), sides.requires_grad_())
    assert torch.autograd.gradcheck(solve, inputs)
    assert torch.autograd.gradgradcheck(solve, inputs)


@pytest.mark.parametrize("method", METHODS)
def test_an_entry_of_zero_has_a_gradient(method):
    rows, columns = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1])
    weights = torch.tensor([0.5, 0.0, 0.25], dtype=torch.float64, requires_grad=True)
    system = forced(rows, columns, 2, method).system(weights)
    (slope,) = torch.autograd.grad(system.solve(torch.ones(2, dtype=torch.float64)).sum(), weights)
    # x_1 = (1 + w x_0) / 0.75 and x_0 = 1 + x_1 / 2: at w = 0, x_0 = 5/3, dx_1 / dw = 20/9, dx_0 / dw = 10/9.
    assert slope[1] == pytest.approx(30 / 9, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("radius", [1.0 - 1e-9, 1.0, 1.0 + 1e-9, 3.0])
def test_what_does_not_die_out_has_no_solution(method, radius):
    """A ring: rho(M) is the geometric mean of its entries, and (I - M)^-1 1 = 1 / (1 - radius) in each state."""
    number = 30
    order = torch.arange(number)
    weights = torch.full((number,), radius, dtype=torch.float64)
    system = forced(order, (order + 1) % number, number, method).system(weights)
    if radius < 1:
        assert system.lengths.numpy() == pytest.approx(1 / (1 - radius), rel=1e-6)  # 1 - radius is known to 1e-7
        return
    assert system.lengths is None
    with pytest.raises(ArithmeticError, match=r"30 unknowns has no solution.*rho\(M\) is 1 or more"):
        system.solve(torch.ones(number, dtype=torch.float64))


@pytest.mark.parametrize("method", METHODS)
def test_no_unknowns_one_unknown_and_no_entries(method):
    nothing = torch.zeros(0, dtype=torch.int64)
    empty = forced(nothing, nothing, 0, method).system(torch.zeros(0, dtype=torch.float64))
    assert empty.lengths.shape == (0,)
    assert empty.solve(torch.zeros(0, dtype=torch.float64)).shape == (0,)
    alone = forced(torch.tensor([0]), torch.tensor([0]), 1, method)
    side = torch.tensor([2.0], dtype=torch.float64)
    assert alone.system(torch.tensor([0.75], dtype=torch.float64)).solve(side).tolist() == pytest.approx([8.0])
    assert alone.system(torch.tensor([1.0], dtype=torch.float64)).lengths is None
    assert alone.system(torch.tensor([INF], dtype=torch.float64)).lengths is None
    bare = forced(nothing, nothing, 3, method).system(torch.zeros(0, dtype=torch.float64))
    assert bare.solve(torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)).tolist() == [1.0, -2.0, 0.0]


def test_single_precision_is_solved_in_double():
    rows, columns, weights, matrix = entries(7, 300, 900, radius=0.999)
    side = torch.rand(300, generator=torch.Generator().manual_seed(0))
    system = SystemPattern(rows, columns, 300).system(weights.float().requires_grad_())
    got = system.solve(side)
    want = np.linalg.solve(np.eye(300) - matrix, side.double().numpy())
    assert got.dtype == system.lengths.dtype == torch.float32
    # The entries themselves are rounded to 6e-8, and 1 / (1 - rho) = 1000 times that is what may be seen.
    assert np.allclose(got.detach().numpy(), want, rtol=2e-4)
    (slope,) = torch.autograd.grad(got.sum(), system.weights)
    assert bool(torch.isfinite(slope).all())


# ---- the rule ----------------------------------------------------------------------------------------------------


def grid(side):
    cells = np.arange(side * side).reshape(side, side)
    padded = np.pad(cells, 1, mode="edge")
    around = np.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]], -1)
    return torch.tensor(cells.reshape(-1)).repeat_interleave(4), torch.tensor(around.reshape(-1))


def random_successors(number, width=3):
    rng = np.random.default_rng(0)
    return torch.arange(number).repeat_interleave(width), torch.tensor(rng.integers(number, size=number * width))


def star(number):
    """All lead to the first, which leads to all; and each to the one after it."""
    order = torch.arange(number)
    zeros = torch.zeros_like(order)
    return torch.cat([order, zeros, order]), torch.cat([zeros, order, (order + 1) % number])


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (SystemPattern(*grid(12), 144), "dense"),
        (SystemPattern(*grid(50), 2500), "sparse"),
        (SystemPattern(*random_successors(2500), 2500), "dense"),
        (SystemPattern(*random_successors(5000), 5000), "sparse"),
        (SystemPattern(*random_successors(15_000), 15_000), "iterate"),
        (SystemPattern(*grid(150), 22_500), "sparse"),
        (SystemPattern(*star(30_000), 30_000), "sparse"),
    ],
    ids=["small", "grid", "random", "larger random", "large random", "large grid", "star"],
)
def test_the_rule(pattern, method):
    assert pattern.method == method
    number = pattern.number
    assert 0 < pattern.estimated_fill <= number**2


@pytest.mark.parametrize("pattern", [SystemPattern(*grid(100), 10_000), SystemPattern(*random_successors(3000), 3000)])
def test_the_estimate_does_not_promise_too_much(pattern):
    """The factors hold at most a tenth more than estimated, and at least a twentieth of it."""
    pattern.__dict__["method"] = "sparse"
    weights = torch.full((len(pattern.rows),), 0.2, dtype=torch.float64)
    factor = pattern.system(weights)._factor
    assert 0.05 * pattern.estimated_fill <= factor.nnz <= 1.1 * pattern.estimated_fill


@pytest.mark.parametrize(
    "pattern", [SystemPattern(*grid(150), 22_500), SystemPattern(*random_successors(15_000), 15_000)]
)
def test_large_systems_leave_no_residual(pattern):
    rng = np.random.default_rng(4)
    weights = torch.tensor(rng.random(len(pattern.rows)))
    total = torch.zeros(pattern.number, dtype=torch.float64).index_add(0, pattern.rows, weights)
    weights = 0.999 * weights / total[pattern.rows]
    side = torch.tensor(rng.normal(size=pattern.number))
    system = pattern.system(weights)
    for transposed in (False, True):
        x = system.solve(side, transposed=transposed)
        here, there = (pattern.columns, pattern.rows) if transposed else (pattern.rows, pattern.columns)
        moved = torch.zeros_like(x).index_add(0, here, weights * x[there])
        assert float((x - moved - side).abs().max()) <= 1e-12 * float(x.abs().max())
    assert float((system.lengths - 1000).abs().max()) <= 1e-8  # every row adds up to 0.999


def test_an_iteration_that_stalls_says_so(monkeypatch):
    """A long line: news crosses it one step an iteration, and the rounds are too few."""
    monkeypatch.setattr(iterated, "ROUNDS", 1)
    monkeypatch.setattr(iterated, "ROUND_STEPS", 5)
    number = 300
    order = torch.arange(number - 1)
    pattern = forced(order, order + 1, number, "iterate")
    assert pattern.system(torch.ones(number - 1, dtype=torch.float64)).lengths is None


# ---- graphs ------------------------------------------------------------------------------------------------------


def loop_reached(possible, following, start):
    """The start and all that follows, one step at a time."""
    found = set(start)
    while True:
        more = found | {int(following[s, a, k]) for s, a, k in np.argwhere(possible) if s in found}
        if more == found:
            return found
        found = more


def test_searches_are_those_of_loops():
    rng = np.random.default_rng(2)
    for _ in range(30):
        size, width = int(rng.integers(1, 9)), 2
        following = rng.integers(size, size=(size, 2, width))
        possible = rng.random((size, 2, width)) < 0.4
        start = rng.random(size) < 0.3
        origins, targets = edges_of(torch.tensor(possible), torch.tensor(following))
        got = reached_from(origins, targets, torch.tensor(start))
        assert set(np.flatnonzero(got)) == loop_reached(possible, following, np.flatnonzero(start))
        back = leads_to(origins, targets, torch.tensor(start))
        for state in range(size):
            found = loop_reached(possible, following, [state])
            assert bool(back[state]) == bool(found & set(np.flatnonzero(start)))


def test_dense_tables_have_the_same_edges():
    rng = np.random.default_rng(5)
    table = rng.random((6, 3, 6)) < 0.2
    origins, targets = edges_of(torch.tensor(table), torch.arange(6)[None, None])
    assert set(zip(origins.tolist(), targets.tolist(), strict=True)) == set(map(tuple, np.argwhere(table.any(1))))


# ---- models of more than 3,000 states ----------------------------------------------------------------------------


def city(side, reward, slip=0.0, discount=1.0):
    """A grid with a terminal corner, four ways to go, and steps that may slip to a side."""
    _, around = grid(side)
    moves = around.reshape(-1, 4)
    moves[-1] = side * side - 1
    following = torch.stack([moves, moves.roll(1, 1)], -1)
    chances = torch.tensor([1 - slip, slip], dtype=torch.float64).expand(following.shape)
    start = torch.zeros(side * side, dtype=torch.float64)
    start[0] = 1.0
    mdp = MDP.from_successors(following, chances, start, terminal=[side * side - 1])
    return TrajectoryModel(mdp, reward, horizon=INF, discount=discount)


def costs(side, seed=0):
    generator = torch.Generator().manual_seed(seed)
    reward = -0.1 - torch.rand(side * side, 4, generator=generator, dtype=torch.float64)
    reward[-1] = 0.0
    return reward


@pytest.mark.parametrize(
    ("name", "slip", "discount"),
    [
        ("exact", 0.1, 1.0),
        ("variational", 0.1, 1.0),
        ("z-iteration", 0.0, 1.0),
        ("exact", 0.1, 0.99),
        ("variational", 0.1, 0.99),
    ],
)
def test_gradients_above_three_thousand_states(name, slip, discount):
    """The gradient of the bound in the rewards, along a random direction, against central differences."""
    side = 60
    table = costs(side)
    options = {} if name == "z-iteration" else {"tolerance": 1e-13}

    def bound(reward):
        return cai.infer(city(side, reward, slip, discount), name, **options).elbo

    leaf = table.clone().requires_grad_()
    (slope,) = torch.autograd.grad(bound(leaf), leaf)
    assert bool(torch.isfinite(slope).all())
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(table.shape, generator=generator, dtype=torch.float64)
    direction[-1] = 0.0
    size = 1e-4
    with torch.no_grad():
        numeric = float(bound(table + size * direction) - bound(table - size * direction)) / (2 * size)
    assert float((slope * direction).sum()) == pytest.approx(numeric, rel=1e-6)


@pytest.mark.parametrize("backend", [SumProduct(), StructuredVariational(solver="closed-form")], ids=["exact", "fixed"])
def test_a_large_world_begins_near_its_answer(backend):
    """News need not cross the world step by step; without Newton steps the same values are found by waiting."""
    side = 40  # 1,599 nonterminal states
    model = city(side, costs(side), slip=0.1)
    fast = backend.run(model)
    slow = type(backend)(**{**backend.__dict__, "accelerate": False}).run(model)
    assert fast.status is slow.status is Status.SUCCESS
    assert fast.details["newton_steps"] > 0
    assert slow.details["newton_steps"] == 0
    size = float(fast.values.abs().max())
    assert float((fast.values - slow.values).abs().max()) <= 2.2e-10 * size
    assert torch.allclose(fast.state_marginals, slow.state_marginals, atol=1e-7)


@functools.cache
def a_sure_world():
    """A model of 4,095 nonterminal states, and its answer by iteration."""
    model = city(64, costs(64))
    return model, cai.infer(model, ZIteration(solver="iteration"))


@pytest.mark.parametrize("name", ["exact", "variational", "z-iteration"])
def test_a_sure_world_has_one_answer_however_it_is_solved(name):
    model, want = a_sure_world()
    got = cai.infer(model, name)
    assert float((got.values - want.values).abs().max()) <= 1e-9 * float(want.values.abs().max())
    assert torch.allclose(got.action_probs, want.action_probs, atol=1e-8)
    assert torch.allclose(got.state_marginals, want.state_marginals, atol=1e-7)


def test_visits_of_a_large_chain_are_conserved():
    side = 100
    model = city(side, costs(side), slip=0.2)
    generator = torch.Generator().manual_seed(3)  # a policy that leans, so that P and its transpose differ
    policy = torch.rand(1, side * side, 4, generator=generator, dtype=torch.float64) + torch.tensor(
        [0.0, 0.5, 0.0, 0.5]
    )
    policy = policy / policy.sum(-1, keepdim=True)
    visits, absorbed = expected_visits(model, model.mdp.initial, policy, FixedDynamics(model))
    alive = FixedDynamics(model).outcomes(0)[0]
    entered = model.mdp.scatter((visits[0, :, None] * policy[0])[..., None] * alive)
    missed = (visits[0] - entered - model.mdp.initial)[model.nonterminal].abs().max()
    assert float(missed) <= 1e-12 * float(visits.max())
    assert float(entered[-1]) == pytest.approx(1.0, abs=1e-9)
    assert float(absorbed) == 0.0


@pytest.mark.parametrize("gain", [-0.1, 0.0, 0.05, 0.2])
def test_large_exact_problems_are_told_apart_by_whether_weight_dies_out(gain):
    """A drunkard's line of which every step pays: rho(M) = e^gain cos(pi / (n + 1)), and 1 / cos is 1 + 5e-6 / 2."""
    number = 1500
    order = np.arange(number + 2)
    following = np.stack([order - 1, order + 1], -1).clip(0, number + 1)
    following[[0, -1]] = [[0], [number + 1]]
    reward = torch.full((number + 2, 2), gain, dtype=torch.float64)
    reward[[0, -1]] = 0.0
    start = np.eye(number + 2)[number // 2]
    mdp = MDP.from_successors(following[..., None], np.ones((number + 2, 2, 1)), start, terminal=[0, number + 1])
    model = TrajectoryModel(mdp, reward, horizon=INF)
    got = SumProduct().run(model)
    assert got.status is (Status.SUCCESS if gain <= 0 else Status.DIVERGED)
    if gain > 0:
        assert "grow without end" in got.details["why"]


def test_small_gains_that_die_out_are_known_to():
    """The same line, each step paying half of what its ends take away: log 1 / cos(pi / (n + 1)) = 2.19e-6."""
    number = 1500
    gain = -0.5 * math.log(math.cos(math.pi / (number + 1)))
    order = np.arange(number + 2)
    following = np.stack([order - 1, order + 1], -1).clip(0, number + 1)
    following[[0, -1]] = [[0], [number + 1]]
    reward = np.full((number + 2, 2), gain)
    reward[[0, -1]] = 0.0
    start = np.eye(number + 2)[number // 2]
    mdp = MDP.from_successors(following[..., None], np.ones((number + 2, 2, 1)), start, terminal=[0, number + 1])
    got = SumProduct().run(TrajectoryModel(mdp, reward, horizon=INF))
    # z(s) = cos(theta (s - middle)) / cos(theta (n + 1) / 2) with e^gain cos theta = 1.
    theta = math.acos(math.exp(-gain))
    want = math.log(math.cos(theta * (number // 2 - (number + 1) / 2)) / math.cos(theta * (number + 1) / 2))
    assert got.status is Status.SUCCESS
    assert float(got.log_evidence) == pytest.approx(want, abs=1e-6)  # theta is known to 1e-11 of its square's rounding


@pytest.mark.parametrize("number", [6, 70])
def test_entries_far_above_1_lose_nothing(number):
    """Where rows would change places small unknowns came out as differences of large ones; held against fractions."""
    rng = np.random.default_rng(number)
    rows = np.repeat(np.arange(number), 3)
    columns = np.concatenate([np.arange(1, number + 1) % number, *rng.integers(0, number, (2, number))])
    columns = columns.reshape(3, number).T.ravel()
    heights = rng.integers(-40, 41, number)
    logs = heights[rows] - heights[columns] - rng.integers(3, 5, 3 * number)
    system = SystemPattern(torch.from_numpy(rows), torch.from_numpy(columns), number).system(
        torch.from_numpy(2.0 ** logs.astype(float))
    )
    ends = rng.integers(-5, 6, number)
    matrix = [[Fraction(int(i == j)) for j in range(number)] for i in range(number)]
    for i, j, log in zip(rows.tolist(), columns.tolist(), logs.tolist(), strict=True):
        matrix[i][j] -= Fraction(2) ** log
    for transposed in (False, True):
        table = [list(row) for row in (zip(*matrix, strict=True) if transposed else matrix)]
        side = [Fraction(2) ** int(end) for end in ends]
        for k in range(number):
            for i in range(k + 1, number):
                if table[i][k]:
                    share = table[i][k] / table[k][k]
                    table[i] = [x - share * y for x, y in zip(table[i], table[k], strict=True)]
                    side[i] -= share * side[k]
        want = [Fraction(0)] * number
        for k in reversed(range(number)):
            want[k] = (side[k] - sum(table[k][j] * want[j] for j in range(k + 1, number))) / table[k][k]
        found = system.answer(2.0 ** ends.astype(float)[:, None], transposed, corrected=False)[:, 0]
        np.testing.assert_allclose(found, [float(part) for part in want], rtol=1e-12)
