"""Hard control, and the two heuristics that resemble soft control, against recursions in plain Python."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from oracle import exact, fixed, log_sum, moves, random_problem
from refusals import check, holds_no_nan

import cai
from cai.inference import InferenceError, Status, StructuredVariational, SumProduct
from cai.inference.backends.risk import RiskSensitive
from cai.inference.tabular.methods.boltzmann import BoltzmannExploration, OneStepEntropy
from cai.inference.tabular.methods.value_iteration import ValueIteration
from cai.models import MDP, TableReward, TrajectoryModel, bridge

INF = math.inf
KINDS = ("expected", "best", "worst")
TIE = 1e-10  # problems drawn at random have no ties but exact ones


def close(left, right, tolerance=1e-9):
    left, right = float(left), float(right)
    if math.isinf(left) or math.isinf(right):
        return left == right
    return abs(left - right) <= tolerance * max(1.0, abs(right))


def outcomes(problem, state, t):
    """{action: [(next state or None, probability, reward)]} of one step; only what is possible."""
    rows = {}
    for action, _, following, probability, reward, _ in moves(problem, state, t):
        rows.setdefault(action, []).append((following, probability, reward))
    return rows


def weighed(pairs, kind):
    """What pairs of probability and worth are worth together."""
    if kind != "expected":
        return (max if kind == "best" else min)(x for _, x in pairs)
    return -INF if any(x == -INF for _, x in pairs) else math.fsum(p * x for p, x in pairs)


def bellman(problem, kind="expected"):
    """(t, s) -> (V, {a: Q}) in reward units."""

    @cache
    def value(t, state):
        if state is None or t == problem.horizon or problem.terminal[state]:
            return 0.0, {}
        scores = {
            action: weighed([(p, r + value(t + 1, n)[0]) for n, p, r in rows], kind)
            for action, rows in outcomes(problem, state, t).items()
        }
        return max(scores.values()), scores

    return value


def shared(problem, state, value, scores):
    """The hard policy: the best actions in the proportions of the prior."""
    prior = problem.prior[state]
    if value == -INF:
        return list(prior)
    best = [a in scores and scores[a] >= value - TIE for a in range(problem.num_actions)]
    mass = sum(p for p, ok in zip(prior, best, strict=True) if ok)
    return [p / mass if ok else 0.0 for p, ok in zip(prior, best, strict=True)]


def soft(problem, state, scores):
    """The softmax policy on q-values in nats."""
    logs = {a: math.log(problem.prior[state][a]) + q for a, q in scores.items()}
    total = log_sum(list(logs.values()))
    if total == -INF:
        return list(problem.prior[state])
    return [math.exp(logs[a] - total) if a in logs else 0.0 for a in range(problem.num_actions)]


def attained(problem, policy):
    """E[R] / alpha - KL(policy || prior) of a policy (t, s) -> row under the true dynamics."""
    here, total = dict(enumerate(problem.initial)), 0.0
    for t in range(problem.horizon):
        after = {}
        for state, weight in here.items():
            if weight == 0 or problem.terminal[state]:
                continue
            row = policy(t, state)
            for action, rows in outcomes(problem, state, t).items():
                if row[action] == 0:
                    continue
                total -= weight * row[action] * math.log(row[action] / problem.prior[state][action])
                for following, probability, reward in rows:
                    total += weight * row[action] * probability * reward / problem.temperature
                    if following is not None:
                        after[following] = after.get(following, 0.0) + weight * row[action] * probability
        here = after
    return total


def started(problem, values, kind="expected"):
    """What the start is worth."""
    return weighed([(p, v) for p, v in zip(problem.initial, values, strict=True) if p > 0], kind)


def failure(problem, start, kind="expected"):
    if start > -INF:
        return Status.SUCCESS
    impossible = kind == "best" or exact(problem).log_evidence == -INF
    return Status.IMPOSSIBLE if impossible else Status.UNAVOIDABLE


# ---- value iteration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@over_seeds(range(120), quick=30)
def test_value_iteration_is_bellmans_recursion(kind, seeds):
    for seed in seeds:
        problem = random_problem(seed)
        got, value = ValueIteration(kind).run(problem.model), bellman(problem, kind)
        start = started(problem, [value(0, s)[0] for s in range(problem.num_states)], kind)
        assert got.status is failure(problem, start, kind), seed
        assert got.log_evidence is None
        for t in range(problem.horizon):
            for state in range(problem.num_states):
                v, scores = value(t, state)
                assert close(got.values[t, state], v), (seed, t, state)
                for action, q in scores.items():
                    assert close(got.q_values[t, state, action], q), (seed, t, state, action)
                if scores:
                    want = shared(problem, state, v, scores)
                    assert got.action_probs[t, state].tolist() == pytest.approx(want, abs=1e-12), (seed, t, state)
        if not got.status.ok:
            assert float(got.elbo) == -INF
            continue
        assert close(got.details["start"] * problem.temperature, start), seed
        if kind == "expected":
            assert float(got.luck) == 0.0
            assert close(got.believed_return, start), seed
            want = attained(problem, lambda t, s, p=problem, v=value: shared(p, s, *v(t, s)))
            assert close(got.elbo, want), seed
            policy = cai.extract_policy(got)
            assert close(cai.evaluate(policy, problem.model, num_rollouts=2).expected_return, start), seed
        else:
            assert close(got.believed_return, start), seed  # all the outcomes that are believed are worth the same
            parts = got.believed_return / problem.temperature - got.policy_divergence - got.luck
            assert close(got.elbo, parts), seed


@pytest.mark.parametrize("kind", ["best", "worst"])
@over_seeds(range(40), quick=10)
def test_the_extreme_outcomes_are_believed_in_their_true_proportions(kind, seeds):
    for seed in seeds:
        problem = random_problem(seed + 200)
        got, value = ValueIteration(kind).run(problem.model), bellman(problem, kind)
        if not got.status.ok:
            continue
        luck = 0.0
        for t in range(problem.horizon):
            for state in range(problem.num_states):
                for action, rows in outcomes(problem, state, t).items():
                    q = value(t, state)[1].get(action, -INF)
                    if q == -INF:
                        continue
                    kept = [(n, p) for n, p, r in rows if abs(r + value(t + 1, n)[0] - q) <= TIE]
                    mass = sum(p for _, p in kept)
                    want = np.zeros(problem.num_states)
                    for following, p in kept:
                        if following is not None:
                            want[following] += p / mass
                    assert np.allclose(got.dynamics(t)[state, action].numpy(), want, atol=1e-12), (seed, t, state)
                    assert close(got.luck_map(t)[state, action], -math.log(mass)), (seed, t, state)
                    visits = float(got.state_marginals[t, state] * got.action_probs[t, state, action])
                    luck += visits * -math.log(mass)
        worth = [value(0, s)[0] if p > 0 else math.nan for s, p in enumerate(problem.initial)]
        start = started(problem, worth, kind)
        kept = [p if p > 0 and abs(v - start) <= TIE else 0.0 for p, v in zip(problem.initial, worth, strict=True)]
        assert got.initial.tolist() == pytest.approx([p / sum(kept) for p in kept], abs=1e-12), seed
        assert close(got.luck, luck - math.log(sum(kept))), seed


@pytest.mark.parametrize("kind", KINDS)
@over_seeds(range(15), quick=5)
def test_the_temperature_plays_no_part_but_in_the_bound(kind, seeds):
    for seed in seeds:
        model = random_problem(seed + 300).model
        cold, warm = (ValueIteration(kind).run(model.replace(temperature=alpha)) for alpha in (0.01, 100.0))
        assert cold.status is warm.status
        for name in ("values", "q_values", "action_probs", "initial"):
            assert torch.allclose(getattr(cold, name), getattr(warm, name), rtol=1e-10, atol=1e-10), (seed, name)
        if cold.status.ok:
            assert close(cold.believed_return, warm.believed_return)
            assert close(cold.luck, warm.luck)


def test_equals_share_by_their_prior():
    """Actions 1 and 2 are equally good, up to the rounding of 0.1 + 0.2; action 3 would be better, but has no prior."""
    reward = torch.tensor([[0.1, 0.3, 0.1 + 0.2, 5.0]], dtype=torch.float64)
    model = TrajectoryModel(MDP([[[1.0]] * 4], [1.0]), reward, horizon=3, action_prior=[0.2, 0.6, 0.2, 0.0])
    for kind in KINDS:
        got = ValueIteration(kind).run(model)
        for row in got.action_probs[:, 0].tolist():
            assert row == pytest.approx([0.0, 0.75, 0.25, 0.0], abs=1e-12)
        assert float(got.values[0, 0]) == pytest.approx(0.9, rel=1e-12)
        assert float(got.policy_divergence) == pytest.approx(-3 * math.log(0.8), rel=1e-12)


@pytest.mark.parametrize("size", [1.0, 1e4, 1e8])
def test_what_differs_beyond_rounding_does_not_tie(size):
    reward = torch.tensor([[size, size * (1 + 1e-9)]], dtype=torch.float64)
    model = TrajectoryModel(MDP([[[1.0]] * 2], [1.0]), reward, horizon=1)
    assert ValueIteration().run(model).action_probs.flatten().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("available", [[True, False], [False, True]])
def test_what_is_not_available_is_not_done(available):
    mdp = MDP([[[1.0], [1.0]]], [1.0], available=[available])
    model = TrajectoryModel(mdp, torch.tensor([[-3.0, -4.0]], dtype=torch.float64), horizon=2)
    for backend in (*map(ValueIteration, KINDS), BoltzmannExploration(), OneStepEntropy()):
        got = backend.run(model)
        assert got.action_probs[:, 0].tolist() == [[float(x) for x in available]] * 2
        assert float(got.values[0, 0]) == (-6.0 if available[0] else -8.0)


@pytest.mark.parametrize("discount", [1.0, 0.6])
def test_a_fall_is_an_outcome_among_others(discount):
    """One way, -1 and then 3: to fall after the first step is worse than to go on, after the second nothing is left."""
    mdp = MDP([[[0.0, 1.0]], [[0.0, 1.0]]], [1.0, 0.0])
    gain, loss = (TrajectoryModel(mdp, [a, b], horizon=2, discount=discount) for a, b in ((-1.0, 3.0), (1.0, -3.0)))
    want = {
        "expected": (-1 + discount * 3, 1 - discount * 3),
        "best": (2.0, -2.0 if discount == 1 else 1.0),
        "worst": (2.0 if discount == 1 else -1.0, -2.0),
    }
    for kind in KINDS:
        found = [float(ValueIteration(kind).run(model).values[0, 0]) for model in (gain, loss)]
        assert found == pytest.approx(want[kind], abs=1e-12), kind


@pytest.mark.parametrize(
    ("kind", "backend"),
    [("expected", StructuredVariational()), ("best", SumProduct()), ("worst", RiskSensitive(-1.0))],
    ids=KINDS,
)
def test_soft_answers_tend_to_hard_ones_in_the_cold(kind, backend):
    """A soft step loses at most -alpha log of the least probable choice; policies follow where one action is best."""
    told = 0
    for seed in range(25):
        problem = random_problem(seed + 400, forbidden=False)
        hard = ValueIteration(kind).run(problem.model)
        gaps = []
        for alpha in (1e-2, 1e-4):
            cold = backend.run(problem.model.replace(temperature=alpha))
            chances = [p for row in problem.prior for p in row if p > 0]
            least = min(chances) * min(p for rows in problem.outcomes for row in rows for p, _, _ in row if p > 0)
            least *= 1 - problem.discount if problem.discount < 1 else 1.0
            slack = -alpha * problem.horizon * math.log(least) + 1e-9
            gaps.append(float((cold.values - hard.values).abs().max()))
            assert gaps[-1] <= slack, seed
            value = bellman(problem, kind)
            for t in range(problem.horizon):
                for state in range(problem.num_states):
                    scores = sorted(value(t, state)[1].values())
                    # A margin beyond what softness may shift on both sides leaves one action, in this cold.
                    if len(scores) > 1 and scores[-1] - scores[-2] > 2 * slack + 40 * alpha:
                        rows = cold.action_probs[t, state], hard.action_probs[t, state]
                        assert torch.allclose(*rows, atol=1e-12), (seed, t, state)
                        told += 1
        assert gaps[1] <= gaps[0] + 1e-12
    assert told > 30


# ---- Boltzmann exploration ---------------------------------------------------------------------------------------


@over_seeds(range(120), quick=30)
def test_boltzmann_exploration_is_soft_on_hard_values(seeds):
    for seed in seeds:
        problem = random_problem(seed + 500)
        alpha = problem.temperature
        got, value = BoltzmannExploration().run(problem.model), bellman(problem)
        start = started(problem, [value(0, s)[0] for s in range(problem.num_states)])
        assert got.status is failure(problem, start), seed

        def row(t, state, problem=problem, value=value, alpha=alpha):
            return soft(problem, state, {a: q / alpha for a, q in value(t, state)[1].items()})

        for t in range(problem.horizon):
            for state in range(problem.num_states):
                assert close(got.values[t, state], value(t, state)[0]), (seed, t, state)
                for action, q in value(t, state)[1].items():
                    assert close(got.q_values[t, state, action], q), (seed, t, state)
                if not problem.terminal[state]:
                    assert got.action_probs[t, state].tolist() == pytest.approx(row(t, state), abs=1e-9), (seed, t)
        check_bound(problem, got, row, seed)


def check_bound(problem, got, row, seed):
    """The bound is what the policy attains, and the variational one is never below."""
    if not got.status.ok:
        assert float(got.elbo) == -INF
        return
    assert float(got.luck) == 0.0
    assert close(got.elbo, attained(problem, row)), seed
    best = started(problem, [fixed(problem, s, 0)[0] for s in range(problem.num_states)])
    assert float(got.elbo) <= best + 1e-9 * max(1.0, abs(best)), seed


@pytest.mark.parametrize("backend", [BoltzmannExploration(), OneStepEntropy()], ids=lambda b: b.name)
def test_the_last_step_is_that_of_the_variational_answer(backend):
    equal = 0
    for seed in range(40):
        model = random_problem(seed + 600).model
        got, want = backend.run(model), StructuredVariational().run(model)
        assert got.status is want.status, seed
        assert torch.allclose(got.action_probs[-1], want.action_probs[-1], atol=1e-12), seed
        if model.steps == 1 and want.status.ok:
            assert close(got.elbo, want.elbo)
            equal += 1
    assert equal > 5


@pytest.mark.parametrize("backend", [BoltzmannExploration(), OneStepEntropy()], ids=lambda b: b.name)
@over_seeds(range(20), quick=7)
def test_heuristics_are_greedy_in_the_cold(backend, seeds):
    for seed in seeds:
        problem = random_problem(seed + 700, forbidden=False)
        got, value = backend.run(problem.model.replace(temperature=1e-5)), bellman(problem)
        for t in range(problem.horizon):
            for state in range(problem.num_states):
                scores = sorted(value(t, state)[1].values())
                if len(scores) > 1 and scores[-1] - scores[-2] > 1e-2:
                    want = shared(problem, state, *value(t, state))
                    assert got.action_probs[t, state].tolist() == pytest.approx(want, abs=1e-12), (seed, t, state)


# ---- an entropy bonus of one step --------------------------------------------------------------------------------


def one_step(problem):
    """(t, s) -> (V^pi, {a: Q^pi}, row) in nats, pi being soft on Q^pi itself."""

    @cache
    def value(t, state):
        if state is None or t == problem.horizon or problem.terminal[state]:
            return 0.0, {}, None
        scores = {
            action: weighed([(p, r / problem.temperature + value(t + 1, n)[0]) for n, p, r in rows], "expected")
            for action, rows in outcomes(problem, state, t).items()
        }
        row = soft(problem, state, scores)
        return weighed([(row[a], q) for a, q in scores.items() if row[a] > 0], "expected"), scores, row

    return value


@over_seeds(range(120), quick=30)
def test_one_step_entropy_is_its_recursion(seeds):
    for seed in seeds:
        problem = random_problem(seed + 800)
        got, value = OneStepEntropy().run(problem.model), one_step(problem)
        start = started(problem, [value(0, s)[0] for s in range(problem.num_states)])
        assert got.status is failure(problem, start), seed
        for t in range(problem.horizon):
            for state in range(problem.num_states):
                v, scores, row = value(t, state)
                assert close(got.values[t, state], problem.temperature * v), (seed, t, state)
                for action, q in scores.items():
                    assert close(got.q_values[t, state, action], problem.temperature * q), (seed, t, state)
                if row is not None:
                    assert got.action_probs[t, state].tolist() == pytest.approx(row, abs=1e-9), (seed, t, state)
        check_bound(problem, got, lambda t, s, value=value: value(t, s)[2], seed)
        if got.status.ok:
            assert close(got.believed_return, problem.temperature * start), seed  # no entropy in the values


WAYS = 6  # actions in each state


def meadow(cost=0.0, alpha=1.0):
    """Two doors, then one more step: behind the first one action is allowed, behind the second all are equally good.

    Every state has as many actions, so the entropy form adds the same to all of them. Action 0 takes the first door,
    the others the second one; the second door costs more.
    """
    moves = np.zeros((4, WAYS, 4))
    moves[0, 0, 1] = 1
    moves[0, 1:, 2] = 1
    moves[1:, :, 3] = 1
    reward = np.zeros((4, WAYS))
    reward[0, 1:] = -cost
    reward[1, 1:] = -INF
    prior = np.full((4, WAYS), 1 / WAYS)
    model = TrajectoryModel(MDP(moves, [1.0, 0, 0, 0], terminal=[3]), TableReward(reward), horizon=2, temperature=alpha)
    return model.entropy_form(), prior


@pytest.mark.parametrize("cost", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_only_soft_values_are_drawn_to_where_randomness_will_be_free(cost, alpha):
    """The corridor has one way to go on, the meadow n: the variational answer counts them, the heuristics do not."""
    model, _ = meadow(cost, alpha)
    tempted = (WAYS - 1) * math.exp(-cost / alpha)  # the odds of the second door by what it costs
    drawn = (WAYS - 1) * WAYS * math.exp(-cost / alpha)
    for backend, odds in (
        (StructuredVariational(), drawn),
        (SumProduct(), drawn),
        (OneStepEntropy(), tempted),
        (BoltzmannExploration(), tempted),
    ):
        got = backend.run(model)
        assert float(got.action_probs[0, 0, 1:].sum()) == pytest.approx(odds / (1 + odds), abs=1e-12), backend.name
        assert got.action_probs[1, 1].tolist() == pytest.approx([1.0] + [0.0] * (WAYS - 1), abs=1e-12)
        assert got.action_probs[1, 2].tolist() == pytest.approx([1 / WAYS] * WAYS, abs=1e-12)
    # By hand, in the entropy form: a door of n - 1 or 1 actions, then log n or log 1.
    soft_worth = alpha * math.log(1 + drawn)
    want = StructuredVariational().run(model)
    assert float(want.values[0, 0]) == pytest.approx(soft_worth, abs=1e-12)
    assert float(want.elbo) * alpha == pytest.approx(soft_worth, abs=1e-12)
    for backend in (OneStepEntropy(), BoltzmannExploration()):
        p = tempted / (1 + tempted)
        entropy = -p * math.log(p / (WAYS - 1)) - (1 - p) * math.log(1 - p) + p * math.log(WAYS)
        assert float(backend.run(model).elbo) == pytest.approx(entropy - p * cost / alpha, abs=1e-12)
        assert float(backend.run(model).policy_entropy) == pytest.approx(entropy, abs=1e-12)


# ---- the door ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["value-iteration", "boltzmann", "one-step-entropy"])
def test_statuses_say_what_is_wrong(name):
    """Below the ice of state 0, with probability 1/2 whatever is done, everything is forbidden."""
    mdp = MDP([[[0.5, 0.5]] * 2, [[0.0, 1.0]] * 2], [1.0, 0.0])
    cracked = TrajectoryModel(mdp, [0.0, -INF], horizon=2, action_prior=[0.3, 0.7])
    got = cai.infer(cracked, name, throw=False)
    assert got.status is Status.UNAVOIDABLE
    assert float(got.elbo) == -INF
    holds_no_nan(got)
    with pytest.raises(
        InferenceError, match=r"under the true dynamics no policy.* can rule out.*large negative reward"
    ):
        cai.infer(cracked, name)
    got = cai.infer(cracked.replace(reward=[-INF, 0.0]), name, throw=False)
    assert got.status is Status.IMPOSSIBLE
    assert got.action_probs[0, 0].tolist() == pytest.approx([0.3, 0.7])
    assert float(got.values[0, 0]) == -INF
    holds_no_nan(got)


def test_kind_dynamics_avoid_what_fixed_ones_cannot():
    mdp = MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0])
    model = TrajectoryModel(mdp, [1.0, -INF], horizon=3)
    best = ValueIteration("best").run(model)
    assert float(best.believed_return) == 3.0
    assert float(best.luck) == pytest.approx(2 * math.log(2), abs=1e-12)  # s_4 earns nothing, and may be anywhere
    assert ValueIteration("worst").run(model).status is Status.UNAVOIDABLE


REFUSED = {
    "a mean": (
        lambda: ValueIteration("mean"),
        ValueError,
        "successors is 'mean'; expected one of expected, best, worst",
    ),
    "no backups": (lambda: ValueIteration(max_iterations=0), ValueError, "max_iterations is 0; it must be >= 1"),
    "no tolerance": (lambda: BoltzmannExploration(tolerance=0), ValueError, "tolerance is 0; it must be > 0"),
    "nan": (lambda: ValueIteration(tolerance=math.nan), ValueError, "tolerance is nan; it must be > 0"),
    "program": (
        lambda: cai.infer(lambda: None, "value-iteration"),
        ValueError,
        r"'value-iteration'.*Pyro.*'variational'",
    ),
    "exploration": (
        lambda: cai.infer(lambda: None, "boltzmann"),
        ValueError,
        r"'boltzmann'.*Pyro program.*'variational'",
    ),
    "entropy": (lambda: cai.infer(lambda: None, "one-step-entropy"), ValueError, r"'one-step-entropy'.*Pyro program"),
    "endless": (
        lambda: cai.infer(bridge(horizon=INF), "one-step-entropy"),
        ValueError,
        r"'one-step-entropy' needs a finite horizon.*horizon=N, or use 'variational', whose fixed point is unique",
    ),
    "option": (
        lambda: cai.infer(bridge(), "one-step-entropy:tolerance=1"),
        ValueError,
        "'one-step-entropy'.*tolerance.*its options are: none",
    ),
}


@pytest.mark.parametrize(("build", "error", "pattern"), REFUSED.values(), ids=list(REFUSED))
def test_refusals(build, error, pattern):
    check(build, error, pattern)


def test_names_of_what_follows_are_options():
    assert cai.infer(bridge(), "value-iteration:successors=best").believed_return == pytest.approx(4.0)
    assert cai.infer(bridge(), ValueIteration()).believed_return == pytest.approx(0.0)


@pytest.mark.parametrize("successors", ["expected", "best"])
@pytest.mark.parametrize("tail", [0, 1, 3])
def test_waiting_for_nothing_until_what_costs_would_come_too_late_is_no_stationary_policy(successors, tail):
    """Stay for 0, or take 2 and pay 1 some steps later: V_T is 2 for every T, and no stationary policy earns over 1."""
    count = tail + 3  # the waiting state, the way, the state that pays, the end
    following = np.minimum(np.arange(count) + 1, count - 1)[:, None].repeat(2, 1)
    following[0, 1] = 0
    rewards = np.zeros((count, 2))
    rewards[0, 0], rewards[tail + 1] = 2.0, -1.0
    terminal = np.arange(count) == count - 1

    def status(rewards):
        mdp = MDP.from_successors(following[..., None], np.ones((count, 2, 1)), initial=0, terminal=terminal)
        model = TrajectoryModel(mdp, TableReward(torch.tensor(rewards)), INF)
        posterior = cai.infer(model, ValueIteration(successors), throw=False)
        finite = cai.infer(model.replace(horizon=50), ValueIteration(successors))
        return posterior.status, posterior.values[0, 0] == finite.values[0, 0]

    assert status(rewards) == (Status.NOT_ASSURED, False)
    rewards[0, 0], rewards[tail + 1] = 0.0, -1.0  # nothing to gain: to wait is best
    assert status(rewards) == (Status.SUCCESS, True)
    rewards[0, 0], rewards[tail + 1] = 2.0, 1.0
    assert status(rewards) == (Status.SUCCESS, True)


def test_values_that_go_round_with_the_horizon_are_not_waited_for():
    """Sure moves, so that the worst outcome is the only one: 0 costs 1 and leads to 1, which pays 1 and leads back."""
    mdp = MDP.from_successors(np.array([[[1]], [[0]]]), np.ones((2, 1, 1)), initial=0)
    model = TrajectoryModel(mdp, TableReward(torch.tensor([[-1.0], [1.0]])), INF)
    for kind in KINDS:
        posterior = cai.infer(model, ValueIteration(kind), throw=False)
        assert posterior.status is Status.NOT_ASSURED
        assert posterior.details["steps"] < 1_000
