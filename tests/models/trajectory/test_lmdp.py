"""Linearly solvable MDPs: z-iteration against sums over state paths, the soft Bellman backup and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
from campaigns import each_seed, over_seeds
from lmdps import INF, NAN, ONE, SHARP, TEMPERATURES, P, agree, chain, close, listed, random_lmdp, small, solved
from oracle import log_sum, random_problem
from refusals import check, holds_no_nan, refuse

import cai
from cai.inference import Enumeration, Status, StructuredVariational, SumProduct
from cai.inference.tabular.methods.z_iteration import ZIteration
from cai.models import MDP, GridLayout, TableReward, TrajectoryModel, bridge
from cai.models.trajectory.lmdp import LMDP

# ---- the definition, in plain Python -----------------------------------------------------------------------------


def state_paths(lmdp, state, steps):
    """Every path of states from here on: (states, probability, what it costs)."""
    if steps == 0 or bool(lmdp.terminal[state]):
        yield (state,), 1.0, 0.0
        return
    for following, chance in enumerate(lmdp.passive[state].tolist()):
        if chance == 0.0:
            continue
        ends = bool(lmdp.terminal[following]) or steps == 1
        here = float(lmdp.state_cost[state]) + (float(lmdp.final_cost[following]) if ends else 0.0)
        for rest, probability, cost in state_paths(lmdp, following, steps - 1):
            yield (state, *rest), chance * probability, here + cost


@each_seed(range(60), quick=16)
def test_values_and_control_are_sums_over_state_paths(seed):
    lmdp, alpha, horizon = random_lmdp(seed, positive=seed % 2), TEMPERATURES[seed % 3], 1 + seed % 4
    posterior = ZIteration().run(lmdp.to_model(horizon=horizon, temperature=alpha))
    for t, state in itertools.product(range(horizon), range(lmdp.num_states)):
        scores = [math.log(p) - c / alpha for _, p, c in state_paths(lmdp, state, horizon - t)]
        assert close(posterior.values[t, state], alpha * log_sum(scores)), (t, state)
    every = list(state_paths(lmdp, 0, horizon))
    evidence = log_sum([math.log(p) - c / alpha for _, p, c in every])
    assert close(posterior.elbo, evidence)
    if evidence == -INF:
        assert posterior.status is Status.IMPOSSIBLE
        return
    marginals = torch.zeros(horizon + 1, lmdp.num_states).double()
    pairs = torch.zeros(horizon, lmdp.num_states, lmdp.num_states).double()
    returns = 0.0
    for path, probability, cost in every:
        weight = math.exp(math.log(probability) - cost / alpha - evidence)
        returns -= weight * cost if weight else 0.0
        path = path + path[-1:] * (horizon + 1 - len(path))
        for t, state in enumerate(path):
            marginals[t, state] += weight
            if t < horizon:
                pairs[t, state, path[t + 1]] += weight
    control = lmdp.dense(posterior.action_probs)
    assert close(posterior.state_marginals, marginals)
    assert close(posterior.state_marginals[:-1, :, None] * control, pairs)
    assert close(posterior.believed_return, returns)
    assert posterior.log_evidence is None


@each_seed(range(30), quick=10)
def test_a_discount_is_a_power_of_the_desirability(seed):
    """z(s) = e^{-q(s)} sum_s' p(s'|s) z(s')^gamma (Todorov 2009), the final cost being paid with the step."""
    lmdp, gamma, horizon = random_lmdp(seed, sure_start=False), 0.6, 4
    passive, cost, final = lmdp.passive.tolist(), lmdp.state_cost.tolist(), lmdp.final_cost.tolist()
    z = [1.0] * lmdp.num_states
    for t in reversed(range(horizon)):
        before = list(z)
        for s in range(lmdp.num_states):
            if lmdp.terminal[s]:
                continue
            ends = [math.exp(-f) if lmdp.terminal[n] or t == horizon - 1 else 1.0 for n, f in enumerate(final)]
            z[s] = math.exp(-cost[s]) * math.fsum(p * ends[n] * before[n] ** gamma for n, p in enumerate(passive[s]))
    got = ZIteration().run(lmdp.to_model(horizon=horizon, discount=gamma))
    assert close(got.values[0].exp(), z)
    assert torch.equal(got.details["log_desirability"], got.values[0])


# ---- the same answer as the soft Bellman backup ------------------------------------------------------------------

SETTINGS = {
    "finite": {"horizon": 6},
    "finite, discounted": {"horizon": 6, "discount": 0.7, "optimality": "bernoulli"},
    "first exit": {"horizon": INF},
    "infinite, discounted": {"horizon": INF, "discount": 0.9},
}


@pytest.mark.parametrize("number", [24, pytest.param(60, marks=pytest.mark.campaign)])  # 24 pairs of size, temperature
@pytest.mark.parametrize("setting", SETTINGS)
def test_z_iteration_is_the_soft_bellman_backup(setting, number):
    answered = 0
    for seed in range(number):
        lmdp = random_lmdp(seed + 100, size=2 + seed % 8, sure_start=seed % 2 == 0)
        model = lmdp.to_model(temperature=TEMPERATURES[seed % 3], **SETTINGS[setting])
        want = SHARP.run(model)
        for solver in ("iteration", "linear") if setting == "first exit" else ("auto", "iteration"):
            got = ZIteration(solver=solver, tolerance=1e-13).run(model)
            agree(got, want, seed)
            answered += got.status.ok
            if seed % 5 == 0:
                holds_no_nan(got)
    assert answered >= number


@over_seeds(range(60), quick=15)
def test_any_deterministic_model_is_accepted(seeds):
    for seed in seeds:
        problem = random_problem(seed, deterministic=True)
        agree(ZIteration().run(problem.model), StructuredVariational().run(problem.model), seed, 1e-11)
        if problem.discount < 1:
            model = problem.model.replace(horizon=INF)
            agree(ZIteration(tolerance=1e-13).run(model), SHARP.run(model), seed)


def test_actions_that_are_never_taken_may_be_random():
    table = np.zeros((3, 2, 3))
    table[0, 0, 1], table[1, 0, 2], table[2, :, 2], table[:2, 1] = 1, 1, 1, [0.2, 0.3, 0.5]
    for options in ({"action_prior": [1.0, 0.0]}, {}):
        available = None if options else [[True, False], [True, False], [True, True]]
        mdp = MDP(table, [1.0, 0.0, 0.0], available=available, terminal=[2])
        model = TrajectoryModel(mdp, np.arange(18.0).reshape(3, 2, 3) * [[[1]], [[1]], [[0]]], 3, **options)
        agree(ZIteration().run(model), StructuredVariational().run(model), options)


def test_rewards_may_depend_on_time():
    lmdp = random_lmdp(3, size=4, forbidden=False)

    def reward(state, action, next_state, t):
        return torch.where(next_state == 2, 0.7 * t, -1.0) * (t + 1) * ~lmdp.terminal[state]

    model = lmdp.to_model(horizon=7).replace(reward=reward)
    assert float(StructuredVariational().run(model).values[0, 0]) != 0
    agree(ZIteration().run(model), StructuredVariational().run(model), "time")


@pytest.mark.parametrize(
    ("number", "solved", "diverged"), [(20, 9, 1), pytest.param(45, 20, 5, marks=pytest.mark.campaign)]
)
@pytest.mark.parametrize("signs", [False, True])
def test_first_exit_is_the_exact_evidence(signs, number, solved, diverged):
    """Where a start is sure, sums over paths need no more than rho(G) < 1: costs may be 0, or rewards."""
    seen = []
    for seed in range(number):
        model = random_lmdp(seed + 300, positive=False, signs=signs).to_model(horizon=INF)
        want = SumProduct(tolerance=1e-14).run(model)
        for solver in ("linear", "iteration"):
            got = ZIteration(solver=solver).run(model)
            agree(got, want, (seed, solver), fields=("elbo", "values") if want.status.ok else ())
            if got.details["rate"] is not None and want.details["rate"] is not None:
                assert got.details["rate"] == pytest.approx(want.details["rate"], abs=1e-7)
        seen.append(want.status)
    assert seen.count(Status.SUCCESS) >= solved
    assert seen.count(Status.DIVERGED) >= diverged


@over_seeds(range(30), quick=10)
def test_linear_is_iteration(seeds):
    for seed in seeds:
        model = random_lmdp(seed + 500, size=30, forbidden=False).to_model(horizon=INF, temperature=2.0)
        linear, iterated = (ZIteration(solver=name).run(model) for name in ("linear", "iteration"))
        assert (linear.details["solver"], iterated.details["solver"]) == ("linear", "iteration")
        assert linear.details["steps"] < iterated.details["steps"]
        agree(linear, iterated, seed, 2e-9)


def test_other_backends_answer_the_embedding():
    model = random_lmdp(7, size=4, forbidden=False).to_model(horizon=3, temperature=0.7)
    want = ZIteration().run(model)
    for backend in (SumProduct(), Enumeration()):
        got = backend.run(model)
        assert close(got.log_evidence, want.elbo)
        assert close(got.state_marginals, want.state_marginals)
    assert cai.infer(model, ZIteration()).status.ok


# ---- closed forms, and sizes that break naive code ---------------------------------------------------------------


@pytest.mark.parametrize("solver", ["linear", "iteration"])
@pytest.mark.parametrize(("length", "cost"), [(2, 1.0), (30, 0.1), (40, 1e4), (300, 3.0), (300, 1e4)])
def test_a_walk_against_its_cost_in_closed_form(length, cost, solver):
    """z_i / z_{i+1} = r_i, r_i = c / (1 - c r_{i-1}), c = e^-cost / 2, r_{-1} = 1: no float ever leaves its range."""
    log_ratios, before = [], 0.0  # of r; where c underflows, r = c
    for _ in range(length - 1):
        before = -cost - math.log(2) - math.log1p(-math.exp(-cost - math.log(2) + before))
        log_ratios.append(before)
    want = np.append(np.cumsum(log_ratios[::-1])[::-1], 0.0)
    got = ZIteration(solver=solver, tolerance=1e-12).run(chain(length, cost).to_model(horizon=INF))
    assert close(got.values[0], want, 1e-10)
    assert close(got.details["log_desirability"], want, 1e-10)


def test_a_fair_game_ends_in_the_mean_of_its_ends():
    """Without costs z is harmonic: linear between the two ends, whatever the walk does meanwhile."""
    length, ends = 200, np.array([3.0, -2.0])
    following = [[i] * 2 if i in (0, length) else [i - 1, i + 1] for i in range(length + 1)]
    final = np.where(np.arange(length + 1) == length, ends[1], ends[0])
    start = np.full(length + 1, 1 / (length + 1))
    walk = LMDP.from_successors(
        following, [[0.5, 0.5]] * (length + 1), 0.0, start, terminal=[0, length], final_cost=final
    )
    got = ZIteration().run(walk.to_model(horizon=INF))
    share = np.arange(1, length) / length
    want = np.log((1 - share) * np.exp(-ends[0]) + share * np.exp(-ends[1]))
    assert close(got.values[0, 1:-1], want, 1e-10)
    assert got.details["rate"] == pytest.approx(math.cos(math.pi / length), abs=1e-12)
    assert close(StructuredVariational().run(walk.to_model(horizon=INF)).values[0, 1:-1], want, 1e-10)


def test_costs_and_rewards_of_ten_thousand():
    passive = [[0.0, 0.5, 0.5, 0.0], [0.2, 0.0, 0.0, 0.8], [0.0, 0.0, 0.6, 0.4], [0.0, 0.0, 0.0, 1.0]]
    for cost in ([1e4, 2e4, 1e4, 0.0], [-1e4, 2e4, 3e4, 0.0], [1e-3, 1e4, 2e4, 0.0]):
        lmdp = LMDP(passive, cost, [1.0, 0.0, 0.0, 0.0], [3], [0.0, 0.0, 0.0, -1e4])
        for options in ({"horizon": INF}, {"horizon": 30}, {"horizon": INF, "discount": 0.9}):
            got, want = (backend.run(lmdp.to_model(**options)) for backend in (ZIteration(), SHARP))
            if want.status.ok:
                agree(got, want, (cost, options))
            assert got.status.ok
            holds_no_nan(got)


def test_many_states_stay_sparse():
    side = 60
    cells = np.arange(side * side).reshape(side, side)
    padded = np.pad(cells, 1, mode="edge")
    moves = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
    following = np.stack([move.reshape(-1) for move in moves], -1)
    following[-1] = side * side - 1
    start = np.eye(side * side)[0]
    room = LMDP.from_successors(following, np.full(following.shape, 0.25), 2.0, start, terminal=[side * side - 1])
    model = room.to_model(horizon=INF)
    answers = [ZIteration(solver=solver).run(model) for solver in ("iteration", "linear", "auto")]
    assert [got.details["solver"] for got in answers] == ["iteration", "linear", "linear"]
    for got in answers:
        v = got.values[0]
        residual = torch.logsumexp(v[room.next_states[:-1]] - math.log(4), -1) - 2.0 - v[:-1]
        assert float(residual.abs().max()) < 1e-7
        assert close(got.believed_return / model.temperature - got.policy_divergence, got.elbo, 1e-8)
        assert torch.allclose(v, answers[1].values[0], atol=1e-7)


@pytest.mark.parametrize("horizon", [1, 500])
def test_short_and_long_horizons(horizon):
    model = chain(20, 0.3, final=1.5).to_model(horizon=horizon)
    agree(ZIteration().run(model), StructuredVariational().run(model), horizon)


def test_one_state():
    alone = LMDP([[1.0]], 2.0, [1.0], final_cost=5.0)
    assert ZIteration().run(alone.to_model(horizon=3)).values.tolist() == [[-11.0], [-9.0], [-7.0]]
    assert float(ZIteration().run(alone.to_model(horizon=INF, discount=0.5)).elbo) == pytest.approx(-4.0, abs=1e-9)
    over = ZIteration().run(LMDP([[1.0]], 0.0, [1.0], [0], 5.0).to_model(horizon=INF))
    assert over.status.ok
    assert float(over.elbo) == 0.0


def test_where_costs_are_paid():
    """Final costs on the entry of a terminal state, and of where a finite horizon stops; never twice, never outside."""
    lmdp = LMDP([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]], [1, 2, 0], [1, 0, 0], [2], [10, 20, 40])
    runs = {horizon: ZIteration().run(lmdp.to_model(horizon=horizon)).values[0] for horizon in (1, 2, 3, INF)}
    assert runs[1].tolist() == [-21.0, -42.0, 0.0]
    for horizon in (2, 3, INF):
        assert runs[horizon].tolist() == pytest.approx([-43.0, -42.0, 0.0])
    assert lmdp.to_model(horizon=INF).reward.reads_time is False
    assert LMDP([[0.5, 0.5], [0, 1]], 3.0, [1, 0], [1]).state_cost.tolist() == [3.0, 0.0]
    discounted = ZIteration().run(lmdp.to_model(horizon=INF, discount=0.5)).values[0]
    assert discounted.tolist() == pytest.approx([-22.0, -42.0, 0.0])


def test_forbidden_and_unreachable_states():
    """0 may step to 1 (forbidden), 2 (a trap that costs) or 3 (the end); 4 cannot be met and leads to 0."""
    passive = np.eye(5)
    passive[0], passive[1], passive[4] = [0, 0.2, 0.3, 0.5, 0], [0.5, 0, 0, 0.5, 0], [1, 0, 0, 0, 0]
    lmdp = LMDP(passive, [1, INF, 1, 0, 1], np.eye(5)[0], [3])
    for solver in ("linear", "iteration"):
        got = cai.infer(lmdp.to_model(horizon=INF), ZIteration(solver=solver), throw=False)
        want = -1 + math.log(0.5)
        assert got.values[0].tolist() == pytest.approx([want, -INF, -INF, 0.0, want - 1])
        assert got.status is Status.SUCCESS
        assert lmdp.dense(got.action_probs)[0, 0].tolist() == [0, 0, 0, 1, 0]
        assert lmdp.dense(got.action_probs)[0, 1].tolist() == [0.5, 0, 0, 0.5, 0]  # without hope, the prior stands
        holds_no_nan(got)


# ---- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", "iteration"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_gradients_reach_costs_and_passive_dynamics(setting, solver):
    base = random_lmdp(11, size=5, forbidden=False)
    costs, finals = base.state_cost.clone(), base.final_cost.clone()
    logits = base.passive.log()

    def bound(costs, finals, logits):
        lmdp = LMDP(logits.softmax(-1), costs, base.initial, base.terminal, finals)
        return ZIteration(solver=solver, tolerance=1e-13).run(lmdp.to_model(**SETTINGS[setting])).elbo

    inputs = [value.requires_grad_() for value in (costs, finals, logits)]
    slopes = torch.autograd.grad(bound(*inputs), inputs)
    assert all(torch.isfinite(slope).all() for slope in slopes)
    nonterminal = torch.nonzero(~base.terminal).flatten().tolist()
    places = [(0, (s,)) for s in nonterminal] + [(1, (s,)) for s in range(5)] + [(2, (s, 4)) for s in nonterminal]
    for which, index in places:
        ends = []
        for sign in (1, -1):
            moved = [value.detach().clone() for value in inputs]
            moved[which][index] += sign * 1e-5
            ends.append(float(bound(*moved)))
        assert float(slopes[which][index]) == pytest.approx((ends[0] - ends[1]) / 2e-5, abs=1e-6), (which, index)
    assert float(slopes[0].abs().sum()) > 0.1


# ---- failures that are answers -----------------------------------------------------------------------------------


def test_what_does_not_die_out_has_diverged():
    free_trap = LMDP([[0, 0.5, 0.5], [0, 1.0, 0], [0, 0, 1.0]], [1, 0, 0], [1, 0, 0], [2])
    paid = LMDP([[0.5, 0.5], [0, 1.0]], [-1.0, 0.0], [1, 0], [1])  # rho(G) = e / 2
    hoarded = LMDP([[0.9, 0.1], [0, 1.0]], [-1e4, 0.0], [1, 0], [1])
    for problem in (paid, hoarded):
        for solver in ("linear", "iteration"):
            got = cai.infer(problem.to_model(horizon=INF), ZIteration(solver=solver), throw=False)
            assert got.status is Status.DIVERGED
            assert [got.values, got.elbo, got.details["log_desirability"]] == [None] * 3
            assert torch.equal(got.action_probs[0], got.action_prior)
            holds_no_nan(got)
    for backend in (ZIteration(), StructuredVariational()):  # state 1 is never left and never pays: as good as an end
        got = backend.run(free_trap.to_model(horizon=INF))
        assert got.status.ok
        assert got.values[0].tolist() == [-1.0, 0.0, 0.0]
    check(lambda: cai.infer(paid.to_model(horizon=INF), ZIteration()), cai.InferenceError, "'z-iteration': diverged")
    assert ZIteration().run(paid.to_model(horizon=10)).status.ok
    almost = LMDP([[0.5, 0.5], [0, 1.0]], [-math.log(2) + 1e-6, 0.0], [1, 0], [1])
    assert float(ZIteration().run(almost.to_model(horizon=INF)).elbo) == pytest.approx(math.log(1e6), abs=1e-5)


def test_too_few_steps_say_so():
    for options in ({}, {"discount": 0.9}):
        model = chain(30, 0.01).to_model(horizon=INF, **options)
        got = ZIteration(solver="iteration", max_iterations=3).run(model)
        assert got.status is Status.NOT_CONVERGED
        assert got.values is not None
        holds_no_nan(got)
        assert ZIteration(solver="iteration").run(model).status.ok


def test_impossible_and_unavoidable():
    lmdp = LMDP([[0.5, 0.5, 0], [0, 0, 1.0], [0, 0, 1.0]], [1, INF, 0], [1, 0, 0], [2])
    either = LMDP(lmdp.passive, lmdp.state_cost, [0, 0.5, 0.5], [2])
    for options in ({"horizon": INF}, {"horizon": 3}, {"horizon": INF, "discount": 0.9}):
        for problem, status in ((lmdp, Status.IMPOSSIBLE), (either, Status.UNAVOIDABLE)):
            if problem is lmdp and (options["horizon"] == 3 or "discount" in options):
                continue  # it may stay in 0, or fall
            model = problem.to_model(**options)
            got = ZIteration().run(model)
            assert got.status is status
            assert float(got.elbo) == -INF
            agree(got, StructuredVariational().run(model), options, fields=("values", "elbo", "action_probs"))
            holds_no_nan(got)


def test_nothing_global_is_touched():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    ZIteration().run(chain(5, 1.0).to_model(horizon=INF), seed=1)
    assert torch.equal(torch.get_rng_state(), before)


# ---- the problem itself ------------------------------------------------------------------------------------------


def test_lists_and_tables_agree():
    lists = LMDP.from_successors([[1, 2, 0], [2], [2]], [[0.25, 0.25, 0.5], [1.0], [1.0]], [1, 2, 0], [1, 0, 0])
    table = LMDP([[0.5, 0.25, 0.25], [0, 0, 1.0], [0, 0, 1.0]], [1, 2, 0], [1, 0, 0])
    assert torch.equal(lists.dense(), table.passive)
    assert torch.equal(table.dense(), table.passive)
    assert (lists.num_states, lists.num_successors, table.num_successors) == (3, 3, 3)
    agree(*(ZIteration().run(lmdp.to_model(horizon=4)) for lmdp in (lists, table)), "lists", fields=("values", "elbo"))
    twice = LMDP.from_successors([[0, 0], [1, 0]], [[0.5, 0.5], [0.5, 0.5]], 1.0, [1, 0])
    assert twice.dense().tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert "S=3, K=3, 0 terminal" in repr(lists)
    again = lists.replace(state_cost=5.0, terminal=[2], state_names=["a", "b", "c"], regions={"end": ["c"]})
    assert again.state_cost.tolist() == [5, 5, 0]
    assert again.process.states("end").tolist() == [False, False, True]
    check(lambda: lists.replace(passive=table.passive), TypeError, "no argument 'passive'; it has .*next_states")


def test_pictures_keep_only_arrows_that_mean_something():
    layout = GridLayout(1, 2, ((0, 0), (0, 1)), ((0, 1), (0, -1), (1, 0)))
    table = LMDP([[0.5, 0.5], [0.0, 1.0]], 1.0, [1, 0], layout=layout)
    assert table.to_model().mdp.layout.arrows == ()
    lists = [[1, 0, 0], [1, 0, 1]], np.full((2, 3), 1 / 3)
    assert LMDP.from_successors(*lists, 1.0, [1, 0], layout=layout).process.layout.arrows == layout.arrows


@refuse(
    {
        "nothing": (lambda: small(None), "passive is None; give .*from_successors"),
        "three axes": (lambda: small([P]), r"passive has shape \[1, 2, 2\]; expected \[S, S\]"),
        "a sum": (lambda: small([[0.5, 0.4], [0, 1]]), r"passive\[0\] sums to 0.9, not to 1; divide"),
        "a sign": (lambda: small([[1.5, -0.5], [0, 1]]), r"passive\[0, 1\] is negative"),
        "NaN cost": (lambda: small(state_cost=[NAN, 0]), r"state_cost\[0\] is NaN; costs are finite"),
        "-inf cost": (lambda: small(final_cost=[0, -INF]), r"final_cost\[1\] is -inf;.*\+inf for what is forbidden"),
        "shape": (lambda: small(state_cost=[1, 2, 3]), r"state_cost has shape \[3\]; expected \[S\] = \[2\]"),
        "no cost": (lambda: small(state_cost=None), TypeError, r"state_cost is None; expected \[S\] costs or one"),
        "terminal cost": (lambda: small(state_cost=[1, 2]), r"state_cost\[1\] is 2 in terminal state 1.*final_cost"),
        "leaving": (lambda: small(terminal=[0]), "terminal state 0 is left with probability 0.5; .*must stay"),
        "start": (lambda: small(initial=[1, 1]), "initial sums to 2, not to 1"),
        "no such state": (lambda: listed([[0, 2], [1, 1]]), r"next_states\[0, 1\] is 2; states are 0 to 1"),
        "lengths": (lambda: listed([[0], [1, 1]]), "rows of the same lengths; give each next state its"),
        "list sum": (lambda: listed(weights=[[0.5, 0.4], [1, 0]]), r"probabilities\[0\] sums to 0.9"),
        "nesting": (lambda: listed([0, 1]), r"next_states must be nested as \[S, K\]"),
        "control": (lambda: ONE.dense(torch.ones(3, 4)), r"action_probs has shape \[3, 4\]; expected .* = \[2, 2\]"),
        "horizon": (lambda: ONE.to_model(horizon=0), "horizon is 0; it must be at least 1"),
    }
)
def test_bad_problems_are_refused(build, error, pattern):
    check(build, error, pattern)


@refuse(
    {
        "random": (
            lambda: ZIteration().supports(bridge()),
            r"'z-iteration' needs an action to have one next state, and action up of state bridge\(2,2\) leads to "
            r".* \(probability 0.8\) and .*\(probability 0.1\), among others; use 'variational'",
        ),
        "dense random": (
            lambda: ZIteration().run(TrajectoryModel(MDP([[[0.3, 0.7]], [[0, 1]]], [1, 0]), -1.0, 3)),
            r"action 0 of state 0 leads to 1 \(probability 0.7\) and 0 \(probability 0.3\); use 'variational'",
        ),
        "a program": (lambda: ZIteration().supports(lambda: None), "is a Pyro program; .*'variational'"),
        "an LMDP": (lambda: ZIteration().supports(ONE), "tables of a TrajectoryModel, and this is a LMDP"),
        "linear, finite": (
            lambda: solved(backend=ZIteration("linear"), horizon=9),
            "horizon 9 and discount 1; use .*'auto'",
        ),
        "linear, discount": (lambda: solved(backend=ZIteration("linear"), discount=0.5), "discount 0.5; use"),
        "solver": (lambda: ZIteration("magic"), "solver is 'magic'; expected one of auto, iteration, linear"),
        "tolerance": (lambda: ZIteration(tolerance=0), "tolerance is 0; it must be > 0"),
        "steps": (lambda: ZIteration(max_iterations=0), "max_iterations is 0; it must be >= 1"),
    }
)
def test_what_z_iteration_cannot_answer_is_refused(build, error, pattern):
    check(build, error, pattern)


def test_a_table_reward_is_not_needed():
    """The embedding is an ordinary model: its reward can be changed, and pictures and comparison take it."""
    model = ONE.to_model(horizon=4)
    shifted = model.replace(reward=model.reward + TableReward([0.5, 0.0]))
    assert float(ZIteration().run(shifted).elbo) > float(ZIteration().run(model).elbo)
    rows = cai.compare(model, [ZIteration(), "variational", "exact"], num_rollouts=10).rows
    assert rows[0].elbo == pytest.approx(rows[1].elbo, abs=1e-12)
