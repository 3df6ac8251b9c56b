"""Infinite horizons whose answers are known by hand, by publication, or in fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import cai
from cai.inference import Status
from cai.inference.tabular.markov import graphs
from cai.inference.tabular.stationary.problem import steps
from cai.models import MDP, Goal, OutcomeReward, TrajectoryModel, gymnasium_model, random_mdp

INF = math.inf
HARD = ["value-iteration", "value-iteration:successors=best", "value-iteration:successors=worst"]


def ask(model, backend):
    """The answer, whatever its status."""
    return cai.compare(model, [backend], num_rollouts=1).rows[0].posterior


# ---- the error left is bounded --------------------------------------------------------------------------------------


@pytest.mark.parametrize("leak", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("last", [1e-3, 0.1, 5.0])
def test_a_rare_exit_behind_a_fast_transient(leak, last):
    """Two states of i.i.d. next states whose rewards weigh 1 on average, so that z is the exit's weight in both."""
    first = 0.5
    second, stay = math.log(2 - math.exp(first)), (1 - leak) / 2
    moves = [[[stay, stay, leak]], [[stay, stay, leak]], [[0, 0, 1]]]
    paid = [[[first, first, last]], [[second, second, last]], [[0, 0, 0]]]
    got = ask(TrajectoryModel(MDP(moves, [1, 0, 0], terminal=[2]), paid, horizon=INF), "exact")
    want = math.log(math.exp(first) * (1 - leak) * math.exp(last) + leak * math.exp(last))
    assert float(got.values[0, 0]) == pytest.approx(want, abs=got.details["error_bound"] + 1e-15 / leak)  # e^second
    assert (got.status is Status.SUCCESS) is (leak > 1e-9)  # beyond, long double does not bound the error by 1e-10
    assert got.details["error_bound"] <= (1e-10 if got.status.ok else 1e-7)


@pytest.mark.parametrize("backend", [*HARD[:1], "variational", "boltzmann", "risk:eta=0"])
@pytest.mark.parametrize("leak", [0.5, 1e-4, 1e-8, 1e-12])
def test_what_is_linear_takes_one_solve(backend, leak):
    model = TrajectoryModel(MDP([[[1 - leak, leak]], [[0, 1]]], [1, 0], terminal=[1]), [[-1.0], [0]], horizon=INF)
    got = ask(model, backend)
    assert got.status is Status.SUCCESS
    assert float(got.values[0, 0]) == pytest.approx(-1 / leak, rel=1e-12)
    assert got.details["steps"] <= 3
    assert float(got.state_marginals[0, 0]) == pytest.approx(1 / leak, rel=1e-12)


def in_fractions(moves, paid, discount):
    """(I - gamma P)^-1 r by elimination in fractions, of one action a state."""
    size = len(moves)
    rows = [
        [Fraction(int(i == j)) - Fraction(discount) * Fraction(moves[i][j]) for j in range(size)] + [Fraction(paid[i])]
        for i in range(size)
    ]
    for i in range(size):
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k in range(size):
            if k != i:
                rows[k] = [x - rows[k][i] * y for x, y in zip(rows[k], rows[i], strict=True)]
    return [float(row[-1]) for row in rows]


@pytest.mark.parametrize("short", [1e-6, 1e-8, 1e-10, 1e-12])
@pytest.mark.parametrize("backend", ["value-iteration", "variational"])
def test_discounts_next_to_one(short, backend):
    moves = np.array([[0.25, 0.25, 0.5], [0, 0.25, 0.75], [0.5, 0.5, 0]])
    paid, discount = [0.55, 1.0, 1.2], 1 - short
    model = TrajectoryModel(MDP(moves[:, None], [1, 0, 0]), np.array(paid)[:, None], horizon=INF, discount=discount)
    got = ask(model, backend)
    assert got.status is Status.SUCCESS
    want = np.array(in_fractions(moves.tolist(), paid, discount))
    assert np.abs(got.values[0].numpy() / want - 1).max() <= 1e-10
    assert np.abs(got.values[0].numpy() - want).max() <= got.details["error_bound"] + 4e-16 * want.max()


# ---- small values ---------------------------------------------------------------------------------------------------


def test_a_small_chance_decides_between_actions():
    moves = np.zeros((3, 2, 3))
    moves[0, 0], moves[0, 1] = [0.99, 1e-12, 0.01 - 1e-12], [0.5, 4e-12, 0.5 - 4e-12]
    moves[1, :, 1] = moves[2, :, 2] = 1
    mdp = MDP(moves, [1, 0, 0], terminal=[1, 2], regions={"goal": [1]})
    got = cai.infer(TrajectoryModel(mdp, Goal("goal", 1.0), horizon=INF), "value-iteration")
    assert float(got.values[0, 0]) == pytest.approx(1e-10, rel=1e-10)
    assert got.action_probs[0, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("backend", ["exact", "variational", "value-iteration", "risk:eta=0.5"])
@pytest.mark.parametrize("scale", [1e-4, 1e-8, 1e-12])
def test_scaled_problems_have_scaled_answers(backend, scale):
    """Rewards and temperature by the same factor: the same policy, and values by that factor."""
    for seed in range(3):
        model = random_mdp(seed, horizon=INF, discount=0.9)
        paid = -model.reward_table(0).abs()[..., 0]
        model = model.replace(reward=paid)
        small = model.replace(reward=scale * paid, temperature=scale * float(model.temperature))
        want, got = ask(model, backend), ask(small, backend)
        assert got.status is want.status is Status.SUCCESS
        assert np.allclose(got.values[0].numpy() / scale, want.values[0].numpy(), rtol=1e-9)
        assert np.allclose(got.action_probs.numpy(), want.action_probs.numpy(), atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-12])
def test_small_rewards_have_the_values_of_large_ones(scale):
    """mdptoolbox's example of two states, with its published values."""
    moves, paid = [[[0.5, 0.5], [0, 1]], [[0.8, 0.2], [0.1, 0.9]]], np.array([[5, 10], [-1, 2.0]])
    got = cai.infer(TrajectoryModel(MDP(moves, [1, 0]), paid * scale, horizon=INF, discount=0.9), "value-iteration")
    assert got.values[0].numpy() / scale == pytest.approx([42.44186046511628, 36.04651162790698], rel=1e-12)


# ---- without a discount ---------------------------------------------------------------------------------------------


def russell_and_norvig():
    """The 4 x 3 grid: (model, numbers of cells by (row, column))."""
    cells = [(r, c) for r in range(3) for c in range(4) if (r, c) != (1, 1)]
    place, ways = {cell: i for i, cell in enumerate(cells)}, [(-1, 0), (0, 1), (1, 0), (0, -1)]
    size, ends = len(cells), [place[0, 3], place[1, 3]]
    moves = np.zeros((size, 4, size))
    for cell in cells:
        for a in range(4):
            if place[cell] in ends:
                moves[place[cell], a, place[cell]] = 1
                continue
            for turn, chance in ((0, 0.8), (1, 0.1), (-1, 0.1)):
                step = ways[(a + turn) % 4]
                there = (cell[0] + step[0], cell[1] + step[1])
                moves[place[cell], a, place.get(there, place[cell])] += chance
    paid = np.full((size, 4, size), -0.04)
    paid[:, :, ends[0]] += 1
    paid[:, :, ends[1]] -= 1
    paid[ends] = 0
    mdp = MDP(moves, np.eye(size)[place[2, 0]], terminal=ends)
    return TrajectoryModel(mdp, paid, horizon=INF), place


@pytest.mark.parametrize("backend", ["value-iteration", "boltzmann"])
def test_the_published_utilities_of_the_grid(backend):
    """Russell and Norvig, Artificial Intelligence, chapter on sequential decisions: R(s) = -0.04, gamma = 1."""
    model, place = russell_and_norvig()
    want = {(2, 0): 0.705, (2, 1): 0.655, (2, 2): 0.611, (2, 3): 0.388, (1, 0): 0.762, (1, 2): 0.660}
    want |= {(0, 0): 0.812, (0, 1): 0.868, (0, 2): 0.918}
    got = ask(model, backend)
    assert got.status is Status.SUCCESS
    for cell, value in want.items():
        assert float(got.values[0, place[cell]]) == pytest.approx(value, abs=6e-4), cell


@pytest.mark.parametrize("backend", ["exact", "variational", "risk:eta=-0.5", "risk:eta=2", *HARD])
def test_the_grid_is_the_limit_of_its_finite_horizons(backend):
    model, _ = russell_and_norvig()
    got, finite = ask(model, backend), ask(model.replace(horizon=600), backend)
    if backend.endswith("worst"):  # unkind dynamics never let it out
        assert got.status is Status.DIVERGED
        return
    assert got.status is Status.SUCCESS
    assert np.allclose(got.values[0].numpy(), finite.values[0].numpy(), atol=1e-9)


def test_a_lake_and_a_taxi_to_the_end():
    pytest.importorskip("gymnasium")
    for name, long, options in (("FrozenLake-v1", 3000, {"is_slippery": True}), ("Taxi-v4", 300, {})):
        model = gymnasium_model(name, horizon=INF, discount=1.0, temperature=0.05, **options)
        for backend in ("value-iteration", "variational"):
            got, finite = ask(model, backend), ask(model.replace(horizon=long), backend)
            assert got.status is Status.SUCCESS, (name, backend, got.details.get("why"))
            size = float(finite.values[0].abs().max())
            assert np.allclose(got.values[0].numpy(), finite.values[0].numpy(), atol=1e-12 * size), (name, backend)


@pytest.mark.parametrize("chance", [0.3, 0.5, 0.6])
def test_the_gambler_is_ruined_by_the_formula(chance):
    """P(n before 0 from s) = (1 - q^s) / (1 - q^n) with q = (1 - p) / p, and s / n where p = 1/2."""
    size = 40
    moves = np.zeros((size + 1, 1, size + 1))
    for s in range(1, size):
        moves[s, 0, s + 1], moves[s, 0, s - 1] = chance, 1 - chance
    moves[0, 0, 0] = moves[size, 0, size] = 1
    mdp = MDP(moves, np.eye(size + 1)[1], terminal=[0, size], regions={"rich": [size]})
    ratio, states = (1 - chance) / chance, np.arange(1, size)
    want = states / size if chance == 0.5 else (1 - ratio**states) / (1 - ratio**size)
    for backend in ("value-iteration", "variational"):
        got = ask(TrajectoryModel(mdp, Goal("rich", 1.0), horizon=INF), backend)
        assert got.status is Status.SUCCESS
        assert got.values[0, 1:-1].numpy() == pytest.approx(want, rel=1e-10)


def test_a_goal_through_a_loop_that_costs_nothing():
    """State 0 may wait for nothing or try; greedy control tries, since waiting earns nothing."""
    moves = np.zeros((3, 2, 3))
    moves[0, 0, 0], moves[0, 1] = 1, [0, 0.5, 0.5]
    moves[1, 0, 0] = moves[1, 1, 1] = moves[2, :, 2] = 1
    mdp = MDP(moves, [1, 0, 0], terminal=[2], regions={"goal": [2]})
    model = TrajectoryModel(mdp, Goal("goal", 1.0), horizon=INF)
    got = cai.infer(model, "value-iteration")
    assert got.values[0].tolist() == pytest.approx([1.0, 1.0, 0.0], rel=1e-12)
    for kind in ("stochastic", "greedy"):
        outcome = cai.evaluate(cai.extract_policy(got, kind), model, num_rollouts=2)
        assert outcome.expected_return == pytest.approx(1.0, rel=1e-9), kind


@pytest.mark.parametrize("backend", ["exact", "variational", "risk:eta=-1", *HARD])
def test_a_walk_that_never_pays_is_worth_nothing(backend):
    walk = MDP([[[0.5, 0.5]], [[0.5, 0.5]]], [1, 0])
    got = ask(TrajectoryModel(walk, 0.0, horizon=INF), backend)
    assert got.status is Status.SUCCESS
    assert got.values[0].tolist() == [0.0, 0.0]
    assert float(got.elbo) == 0.0


def test_a_walk_between_potentials_tends_to_its_mean():
    """Rewards phi(s') - phi(s), nothing to choose: V_T = E[phi(s_T)] - phi, which tends to a mean less phi."""
    rng = np.random.default_rng(0)
    moves, phi = rng.dirichlet(np.ones(3), size=3), np.array([1.0, -2.0, 4.0])
    model = TrajectoryModel(MDP(moves[:, None], [1, 0, 0]), (phi - phi[:, None])[:, None], horizon=INF)
    want = cai.infer(model.replace(horizon=400), "variational").values[0].numpy()
    for backend in ("variational", "value-iteration"):
        got = ask(model, backend)
        assert got.values[0].numpy() == pytest.approx(want, abs=1e-12), backend


@pytest.mark.parametrize("backend", ["variational", "value-iteration"])
def test_what_goes_up_and_down_for_ever_is_not_assured(backend):
    model = TrajectoryModel(MDP([[[0, 1]], [[1, 0]]], [1, 0]), [[1.0], [-1.0]], horizon=INF)
    assert ask(model, backend).status is Status.NOT_ASSURED


@pytest.mark.parametrize("reward", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("backend", ["exact", "variational", "risk:eta=-1", *HARD])
def test_what_is_never_entered_says_nothing_of_the_start(reward, backend):
    moves = np.zeros((3, 1, 3))
    moves[0, 0, 2] = moves[1, 0, 1] = moves[2, 0, 2] = 1
    model = TrajectoryModel(MDP(moves, [1, 0, 0], terminal=[2]), [[-1], [reward], [0]], horizon=INF)
    got = ask(model, backend)
    assert got.status is Status.SUCCESS
    assert got.values[0].tolist() == [-1.0, 0.0 if reward == 0 else reward * INF, 0.0]
    assert got.action_probs[0].tolist() == [[1.0]] * 3


@pytest.mark.parametrize("backend", ["exact", "optimistic", "risk:eta=1"])
@pytest.mark.parametrize("loops", [True, False])
def test_half_of_the_starts_may_be_impossible(backend, loops):
    mdp = MDP([[[1.0, 0.0] if loops else [0.0, 1.0]], [[0.0, 1.0]]], [0.5, 0.5], terminal=[1])
    got = ask(TrajectoryModel(mdp, [-INF, 0.0], horizon=INF), backend)
    assert got.status is Status.SUCCESS
    assert got.values[0].tolist() == [-INF, 0.0]
    assert got.initial.tolist() == [0.0, 1.0]
    assert float(got.elbo) == pytest.approx(math.log(0.5), abs=1e-12)


# ---- what the list of moves says ------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.7, 3.0])
@pytest.mark.parametrize("backend", ["variational", "risk:eta=1", "risk:eta=-1", HARD[0], HARD[2]])
def test_rewards_that_cancel_on_a_cycle_cancel_at_every_temperature(backend, temperature):
    """Of 3, -1 and -2 over the temperature, as float64 rounds them, a billion rounds would add up."""
    leak = 2**-30
    ways, chances = [[[1]], [[2]], [[3, 0]], [[3]]], [[[1]], [[1]], [[leak, 1 - leak]], [[1]]]
    mdp = MDP.from_successors(ways, chances, [1, 0, 0, 0], terminal=[3])
    model = TrajectoryModel(mdp, [3.0, -1.0, -2.0, 0.0], horizon=INF, temperature=temperature)
    got = ask(model, backend)
    assert got.values[0].tolist() == pytest.approx([0.0, -3.0, -2.0, 0.0], abs=got.details["error_bound"] + 1e-15)
    assert got.details["error_bound"] < 1e-8


@pytest.mark.parametrize(
    "backend", ["exact", "optimistic", "risk:eta=2", "variational", "risk:eta=-1", "value-iteration"]
)
def test_what_lies_behind_a_forbidden_move_says_nothing_of_the_start(backend):
    mdp = MDP.from_successors([[[1], [2]], [[1], [1]], [[2], [2]]], [[[1], [1]]] * 3, [1, 0, 0], terminal=[1])
    got = ask(TrajectoryModel(mdp, [[-1, -INF], [0, 0], [1, 1]], horizon=INF), backend)
    assert got.status is Status.SUCCESS
    soft = backend != "value-iteration"
    assert float(got.values[0, 0]) == pytest.approx(-1 - soft * math.log(2), abs=1e-14)
    assert got.values[0, 2] == INF
    assert math.isfinite(float(got.believed_return))
    assert got.action_probs[0, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backend", ["exact", "variational", "value-iteration"])
def test_the_bound_holds_for_values_as_they_are_rounded(backend, dtype):
    mdp = MDP([[[1.0]]], [1.0]).to(dtype=dtype)
    for number in range(1, 30):  # of one state that pays r and ends with 1/2: -log(2 e^-r - 1) or 2 r
        reward, temperature = -number / 8, 3.0
        got = ask(TrajectoryModel(mdp, [reward], horizon=INF, temperature=temperature, discount=0.5), backend)
        r = Fraction(reward) / 3
        want = (
            2 * r
            if backend != "exact"
            else -Fraction(*np.log(2 * np.exp(-np.longdouble(reward) / 3) - 1).as_integer_ratio())
        )
        assert got.status is Status.SUCCESS
        assert (
            abs(Fraction(got.values[0, 0].item()) - 3 * want)
            <= Fraction(got.details["error_bound"]) + Fraction(2) ** -60
        )


@pytest.mark.parametrize("backend", ["exact", "variational"])
@pytest.mark.filterwarnings("error")
def test_a_temperature_with_a_gradient_is_read_without_a_warning(backend):
    temperature = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    mdp = MDP([[[1.0], [1.0]]], [1.0])
    model = TrajectoryModel(mdp, [[-1.0, -2.0]], horizon=INF, temperature=temperature, discount=0.5)
    cai.infer(model, backend).elbo.backward()
    assert temperature.grad is not None


def test_a_temperature_is_read_in_float64():
    model = TrajectoryModel(MDP([[[1.0]]], [1.0]), [-0.7], horizon=INF, temperature=0.1, discount=0.5)
    got = cai.infer(model, "exact")
    assert float(got.values[0, 0]) == pytest.approx(-0.1 * math.log(2 * math.exp(7) - 1), rel=1e-14)


@pytest.mark.parametrize("backend", ["exact", "variational", "risk:eta=-0.7", "risk:eta=inf", "value-iteration"])
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_blocks_of_edges_change_no_answer(backend, discount, monkeypatch):
    """Edges are looked at in blocks of whole pairs (s, a), of any size."""
    rng = np.random.default_rng(int(10 * discount))
    chances = rng.dirichlet(np.full(6, 0.5), size=(6, 3)) * (rng.random((6, 3, 6)) < 0.8) + 1e-3
    chances[5] = np.eye(6)[5]
    mdp = MDP(chances / chances.sum(-1, keepdims=True), np.full(6, 1 / 6), terminal=[5])
    rewards = -0.05 * rng.random((6, 3, 6))
    rewards[5] = 0.0
    model = TrajectoryModel(mdp, rewards, horizon=INF, discount=discount, temperature=0.5)
    whole = cai.infer(model, backend)
    for size in (1, 7, 40):
        monkeypatch.setattr(steps, "BLOCK", size)
        found = cai.infer(model, backend)
        np.testing.assert_allclose(found.values, whole.values, rtol=1e-13)
        np.testing.assert_allclose(found.action_probs, whole.action_probs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("waves", [0, 1, 4])
def test_where_paths_lead_is_found_in_waves_and_by_a_search(waves, monkeypatch):
    monkeypatch.setattr(graphs, "WAVES", waves)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        joined = rng.random((12, 12)) < (0.08, 0.15, 0.6)[seed % 3]
        goal = rng.random(12) < 0.2
        sources, targets = np.nonzero(joined)
        closure = np.linalg.matrix_power((joined | np.eye(12, dtype=bool)).astype(float), 12) > 0
        np.testing.assert_array_equal(graphs.reaching(sources, targets, goal), (closure & goal).any(1))


@pytest.mark.parametrize("discount", [1 - 1e-9, 0.9, 1.0])
def test_where_nothing_can_be_had_for_ever_hard_values_are_0(discount):
    """Costs that can be kept clear of for ever: 0 came back as -2e-53, which no bound is small enough for."""
    for seed in range(12):
        rng = np.random.default_rng(seed)
        states, actions = int(rng.integers(3, 13)), 3
        following = np.clip(np.arange(states)[:, None, None] + rng.integers(-2, 3, (states, actions, 2)), 0, states - 1)
        chances = rng.dirichlet(np.ones(2), (states, actions))
        costs = -rng.gamma(1.0, 1e5, (states, actions, 2)) * (rng.random((states, actions, 1)) < 0.5)
        following[-1], costs[-1] = states - 1, 0.0
        idle = np.ones(states, dtype=bool)
        for _ in range(states):  # a free action that stays among these
            idle &= ((costs == 0).all(-1) & idle[following].all(-1)).any(-1)
        mdp = MDP.from_successors(following, chances, np.ones(states) / states, terminal=[states - 1])
        model = TrajectoryModel(mdp, OutcomeReward(torch.tensor(costs)), math.inf, discount=discount, temperature=1e5)
        answer = cai.infer(model, "value-iteration")
        assert bool((answer.values[0, torch.tensor(idle)] == 0).all()), seed
        assert bool((answer.values[0, ~torch.tensor(idle)] < 0).all()), seed
        if discount < 1:
            kept = cai.evaluate(cai.extract_policy(answer), model.replace(mdp=_begun(mdp, idle)), num_rollouts=2)
            assert kept.expected_return == 0, seed
            assert cai.infer(model, "boltzmann").status.ok, seed


def _begun(mdp, states):
    return MDP.from_successors(mdp.next_states, mdp.probabilities, states / states.sum(), terminal=mdp.terminal)


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e-100])
@pytest.mark.parametrize("backend", ["value-iteration:successors=worst", "value-iteration:accelerate=False"])
def test_growth_is_seen_at_every_size_of_rewards(backend, scale):
    """A loop that pays for ever, of rewards that are nothing beside 1: a million backups went by without a word."""
    mdp = MDP.from_successors([[[0], [1]], [[1], [1]]], [[[1.0], [1.0]]] * 2, [1.0, 0.0], terminal=[1])
    model = TrajectoryModel(mdp, torch.tensor([[2.0, 1.0], [0.0, 0.0]]).double() * scale, INF)
    answer = ask(model, backend)
    assert answer.status is Status.DIVERGED
    assert answer.details["steps"] < 1000


def test_states_that_all_fall_for_ever_are_found_together():
    """Each keeps to itself but for a leak of 1e-12; one at a time, they took 834 backups (28 s with 999 states)."""
    rng, count, actions, leak = np.random.default_rng(0), 100, 4, 1e-12
    here = np.arange(count)[:, None]
    others = (here + 1 + rng.integers(0, count - 1, (count, actions))) % count
    others[:, 0] = (here[:, 0] + 1) % count
    leaks = leak * rng.random((count, actions))
    mdp = MDP.from_successors(
        np.stack([np.broadcast_to(here, others.shape), others], -1), np.stack([1 - leaks, leaks], -1), initial=0
    )
    model = TrajectoryModel(mdp, torch.tensor(rng.normal(size=(count, actions))), math.inf, discount=1 - leak)
    answer = cai.infer(model, "risk:eta=-1", throw=False)
    assert answer.status is Status.DIVERGED
    assert answer.details["steps"] < 100
