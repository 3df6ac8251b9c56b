"""Searches for a policy: regression on lucky trajectories, and hard control as the limit of soft problems."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from oracle import exact, log_sum, moves, random_problem
from refusals import check, holds_no_nan

import cai
from cai.inference import InferenceError, Status, SumProduct
from cai.inference.core import driver
from cai.inference.restricted.classes import ObservationPolicy, StationaryPolicy
from cai.inference.restricted.reward_weighted import EMPolicySearch, GaussianActions, RewardWeightedRegression
from cai.inference.tabular.methods.policy_iteration import KLPolicyIteration, PosteriorPolicyIteration
from cai.inference.tabular.methods.value_iteration import ValueIteration
from cai.models import MDP, TableReward, TrajectoryModel, bridge, random_mdp

INF = math.inf


def close(left, right, tolerance=1e-9):
    left, right = float(left), float(right)
    if math.isinf(left) or math.isinf(right):
        return left == right
    return abs(left - right) <= tolerance * max(1.0, abs(right))


def rows(problem, state, t):
    """{action: [(next state or None, probability, reward)]} of one step; only what is possible."""
    found = {}
    for action, _, following, probability, reward, _ in moves(problem, state, t):
        found.setdefault(action, []).append((following, probability, reward))
    return found


def mean(pairs):
    pairs = [(p, x) for p, x in pairs if p > 0]
    return -INF if any(x == -INF for _, x in pairs) else math.fsum(p * x for p, x in pairs)


def prior_of(problem):
    return {
        (t, s): list(problem.prior[s])
        for t in range(problem.horizon)
        for s in range(problem.num_states)
        if not problem.terminal[s]
    }


def backed_up(problem, choose, weigh):
    """{(t, s): row}, v(t, s): a recursion over actions and outcomes, straight from its definition."""
    policy = {}

    @cache
    def value(t, state):
        if state is None or t == problem.horizon or problem.terminal[state]:
            return 0.0
        scores = {
            a: weigh([(p, r, value(t + 1, n)) for n, p, r in outcomes])
            for a, outcomes in rows(problem, state, t).items()
        }
        v, policy[t, state] = choose(t, state, scores)
        return v

    for t in range(problem.horizon):
        for state in range(problem.num_states):
            value(t, state)
    return policy, value


def softly(problem, policy):
    """The choice log sum_a pi e^q around a policy, rows without hope keeping it."""

    def choose(t, state, scores):
        row = policy[t, state]
        logs = {a: math.log(row[a]) + q for a, q in scores.items() if row[a] > 0}
        total = log_sum(list(logs.values()))
        if total == -INF:
            return total, list(row)
        new = [math.exp(logs[a] - total) if a in logs else 0.0 for a in range(len(row))]
        return total, [x / sum(new) for x in new]

    return choose


def hardly(problem):
    """The choice max_a q; equals share by the prior."""

    def choose(t, state, scores):
        best = max(scores.values())
        if best == -INF:
            return best, list(problem.prior[state])
        kept = [p if scores.get(a, -INF) >= best - 1e-10 else 0.0 for a, p in enumerate(problem.prior[state])]
        return best, [p / sum(kept) for p in kept]

    return choose


def kindly(alpha):
    return lambda outcomes: log_sum([math.log(p) + r / alpha + v for p, r, v in outcomes])


def truly(alpha):
    return lambda outcomes: mean([(p, r / alpha + v) for p, r, v in outcomes])


def walked(problem, policy, prior=None):
    """(E[R], KL of the trajectories from those of another policy) under the true dynamics."""
    here, returns, divergence = dict(enumerate(problem.initial)), [], 0.0
    for t in range(problem.horizon):
        after = {}
        for state, weight in here.items():
            if weight == 0 or problem.terminal[state]:
                continue
            for action, outcomes in rows(problem, state, t).items():
                chance = policy[t, state][action]
                if chance == 0:
                    continue
                if prior is not None:
                    other = prior[t, state][action]
                    divergence += weight * chance * (math.log(chance / other) if other > 0 else INF)
                for following, probability, reward in outcomes:
                    returns.append((weight * chance * probability, reward))
                    if following is not None:
                        after[following] = after.get(following, 0.0) + weight * chance * probability
        here = after
    return mean(returns), divergence


def tables(problem, got):
    """The answer's policy as {(t, s): row} over the nonterminal states."""
    return {(t, s): got.action_probs[t, s].tolist() for t, s in prior_of(problem)}


def objective(problem, policy):
    """log E_pi[e^{R / alpha}]."""
    _, value = backed_up(problem, softly(problem, policy), kindly(problem.temperature))
    return log_sum([math.log(p) + value(0, s) for s, p in enumerate(problem.initial) if p > 0])


# ---- reward-weighted regression ----------------------------------------------------------------------------------


@over_seeds(range(40), quick=10)
def test_a_free_regression_is_the_policy_of_the_exact_posterior(seeds):
    for seed in seeds:
        problem = random_problem(seed)
        got, want = RewardWeightedRegression().run(problem.model), exact(problem)
        if want.log_evidence == -INF:
            assert got.status is Status.IMPOSSIBLE
            continue
        assert got.status is Status.SUCCESS
        assert torch.allclose(got.action_probs, SumProduct().run(problem.model).action_probs, atol=1e-12)
        for (t, state), row in want.policy.items():
            assert got.action_probs[t, state].tolist() == pytest.approx(row, abs=1e-8), (seed, t, state)
        assert got.log_evidence is None
        assert float(got.luck) == 0.0  # none of the dynamics that it counts on
        policy = tables(problem, got)
        returns, divergence = walked(problem, policy, prior_of(problem))
        assert close(got.believed_return, returns), seed
        assert close(got.policy_divergence, divergence), seed
        assert close(got.elbo, returns / problem.temperature - divergence), seed
        assert got.details["objective"][0] == pytest.approx(want.log_evidence, rel=1e-9, abs=1e-9)
        assert got.details["objective"][1] == pytest.approx(objective(problem, policy), rel=1e-9, abs=1e-9)
        holds_no_nan(got)


def weighted_mean(problem, slots, stationary):
    """The rows of highest likelihood under the posterior, for states that share rows by `slots`: plain averages."""
    want = exact(problem)
    mass, total = {}, {}
    for (t, state), row in want.policy.items():
        if problem.terminal[state]:
            continue
        key = (0 if stationary else t, slots[state])
        weight = want.marginals[t, state]
        total[key] = total.get(key, 0.0) + weight
        mass[key] = mass.get(key, np.zeros(problem.num_actions)) + weight * np.array(row)
    return {key: mass[key] / total[key] for key in mass if total[key] > 1e-6}


def open_problem(seed):
    """A random problem without unavailable or improbable actions, so that states can share their rows."""
    while True:
        problem = random_problem(seed, forbidden=False, horizon=3)
        if problem.num_actions > 1 and min(p for row in problem.prior for p in row) > 0.05:
            return problem
        seed += 10_000


@pytest.mark.parametrize("kind", ["stationary", "observed", "observed over time"])
def test_the_regression_in_a_class_is_the_weighted_average_of_rows(kind):
    for seed in range(8):
        problem = open_problem(seed + 100)
        slots = (
            list(range(problem.num_states)) if kind == "stationary" else [min(s, 1) for s in range(problem.num_states)]
        )
        stationary = kind != "observed over time"
        policy = StationaryPolicy() if kind == "stationary" else ObservationPolicy(slots, stationary=stationary)
        got = RewardWeightedRegression(policy).run(problem.model)
        assert got.status is Status.SUCCESS
        want = weighted_mean(problem, slots, stationary)
        for t, state in prior_of(problem):
            key = (0 if stationary else t, slots[state])
            if key in want:
                # L-BFGS sees a likelihood of 16 digits, and at its top half of them tell of the parameters.
                assert got.action_probs[t, state].tolist() == pytest.approx(want[key].tolist(), abs=1e-6), (seed, key)


def test_the_regression_on_noisy_observations_has_no_better_neighbour():
    rng = np.random.default_rng(0)
    for seed in range(6):
        problem = open_problem(seed + 200)
        shown = rng.dirichlet(np.ones(2), size=problem.num_states)
        got = RewardWeightedRegression(ObservationPolicy(shown)).run(problem.model)
        want = exact(problem)
        table = got.details["table"][0].numpy()

        def likelihood(table, shown=shown, want=want, problem=problem):
            total = 0.0
            for (t, state), row in want.policy.items():
                if not problem.terminal[state]:
                    terms = zip(row, shown[state] @ table, strict=True)
                    total += want.marginals[t, state] * math.fsum(q * math.log(m) for q, m in terms if q > 0)
            return total

        best = likelihood(table)
        for size in (1e-3, 0.1, 1.0) * 4:
            moved = table * np.exp(size * rng.normal(size=table.shape))
            assert likelihood(moved / moved.sum(-1, keepdims=True)) <= best + 1e-9, seed


# ---- expectation maximisation ------------------------------------------------------------------------------------


@over_seeds(range(25), quick=8)
def test_em_is_regression_again_and_again(seeds):
    """Every objective and the last policy, against EM in plain Python."""
    for seed in seeds:
        problem = random_problem(seed + 300)
        got = EMPolicySearch(max_iterations=5, tolerance=1e-300).run(problem.model)
        if got.status is Status.IMPOSSIBLE:
            assert exact(problem).log_evidence == -INF
            continue
        policy = prior_of(problem)
        for number in got.details["objective"]:
            assert close(number, objective(problem, policy)), seed
            last = policy
            policy, _ = backed_up(problem, softly(problem, policy), kindly(problem.temperature))
        for key, row in tables(problem, got).items():
            assert row == pytest.approx(last[key], abs=1e-7), (seed, key)


@over_seeds(range(60), quick=15)
def test_em_never_falls_and_tends_to_hard_control_of_kind_dynamics(seeds):
    unfinished = 0
    for seed in seeds:
        problem = random_problem(seed + 400)
        got = EMPolicySearch(max_iterations=400).run(problem.model)
        if exact(problem).log_evidence == -INF:
            assert got.status is Status.IMPOSSIBLE
            continue
        found = got.details["objective"]
        size = max(1.0, abs(found[-1]))
        assert all(high >= low - 1e-12 * size for low, high in itertools.pairwise(found)), seed
        _, value = backed_up(problem, hardly(problem), kindly(problem.temperature))
        limit = log_sum([math.log(p) + value(0, s) for s, p in enumerate(problem.initial) if p > 0])
        assert close(got.details["optimum"], limit), seed
        assert found[-1] <= limit + 1e-9 * size
        if got.status.ok:
            assert found[-1] >= limit - 1e-6 * size, seed
        else:
            assert got.status is Status.NOT_CONVERGED
            unfinished += 1
        holds_no_nan(got)
    assert unfinished <= len(seeds) / 12  # actions that are nearly as good as the best take long


@pytest.mark.parametrize("kind", ["stationary", "observed", "gaussian"])
def test_em_in_a_class_never_falls_and_stops(kind):
    for seed in range(3):
        problem = open_problem(seed + 500)
        policy = {
            "stationary": StationaryPolicy(),
            "observed": ObservationPolicy([0] * problem.num_states),
            "gaussian": GaussianActions(np.linspace(-1, 1, problem.num_actions), std=0.5),
        }[kind]
        got = EMPolicySearch(policy, max_iterations=100).run(problem.model)
        found = got.details["objective"]
        assert all(high >= low - 1e-9 * max(1.0, abs(low)) for low, high in itertools.pairwise(found)), (seed, found)
        assert got.status is Status.SUCCESS or len(found) == 101, seed
        assert found[-1] == pytest.approx(objective(problem, tables(problem, got)), rel=1e-9, abs=1e-9)
        if kind != "stationary":
            assert torch.allclose(got.action_probs, got.action_probs[:1, :1].expand_as(got.action_probs), atol=1e-12)


@pytest.mark.parametrize("policy", [None, StationaryPolicy()], ids=["free", "stationary"])
def test_em_of_one_step_is_not_final(policy):
    # Once: with max_iterations=1 EM takes itself for the regression, which is always final.
    backend = EMPolicySearch(max_iterations=1) if policy is None else EMPolicySearch(policy, max_iterations=1)
    got = backend.run(bridge(slip=0.2, horizon=8))
    assert len(got.details["objective"]) == 2
    assert got.status is Status.NOT_CONVERGED


def test_em_counts_on_luck_where_value_iteration_does_not():
    """One action is safe and pays 1, the other pays 3 or -3: e^R likes the spread."""
    mdp = MDP([[[1, 0, 0], [0, 0.5, 0.5]], [[1, 0, 0]] * 2, [[1, 0, 0]] * 2], [1.0, 0, 0], terminal=[0][:0])
    reward = torch.zeros(3, 2, 3, dtype=torch.float64)
    reward[0, 0] = 1.0
    reward[0, 1] = torch.tensor([0.0, 3.0, -3.0])
    model = TrajectoryModel(mdp, TableReward(reward), horizon=1)
    risky, safe = EMPolicySearch().run(model), ValueIteration().run(model)
    assert risky.details["optimum"] == pytest.approx(math.log(math.cosh(3)), abs=1e-12)
    assert float(risky.action_probs[0, 0, 1]) > 0.999
    assert safe.action_probs[0, 0].tolist() == [1.0, 0.0]


LINE = torch.linspace(-2, 2, 41, dtype=torch.float64)


def two_peaks(tilt=0.0):
    """One step on a line: rewards are high at -1 and 1 and low between them, where their average lies."""
    peaks = torch.maximum((1 - tilt) * torch.exp(-((LINE + 1) ** 2) / 0.1), torch.exp(-((LINE - 1) ** 2) / 0.1))
    return TrajectoryModel(MDP(torch.ones(1, 41, 1), [1.0]), 4 * peaks[None], 1)


@pytest.mark.parametrize("backend", [RewardWeightedRegression, EMPolicySearch])
def test_a_unimodal_policy_lands_between_two_good_actions(backend):
    model = two_peaks()
    got = backend(GaussianActions(LINE, std=0.2)).run(model)
    row = got.action_probs[0, 0]
    assert got.status is Status.SUCCESS
    assert float(LINE[row.argmax()]) == pytest.approx(0.0, abs=1e-12)
    posterior = SumProduct().run(model).action_probs[0, 0]
    assert abs(float(LINE[posterior.argmax()])) == pytest.approx(1.0, abs=1e-12)
    real = cai.evaluate(cai.extract_policy(got), model, num_rollouts=2).expected_return
    assert real < 0.1 < 3.0 < float(SumProduct().run(model).believed_return)


@pytest.mark.parametrize("tilt", [0.0, 0.1, 0.5])
def test_the_regression_matches_the_moments_of_the_posterior(tilt):
    """Maximum likelihood in an exponential family: the mean, and a spread that is learned, are the posterior's."""
    model = two_peaks(tilt)
    want = SumProduct().run(model).action_probs[0, 0]
    for std in (None, 0.2, 0.5):
        row = RewardWeightedRegression(GaussianActions(LINE, std=std)).run(model).action_probs[0, 0]
        assert float((row * LINE).sum()) == pytest.approx(float((want * LINE).sum()), abs=1e-6)
        if std is None:
            assert float((row * LINE**2).sum()) == pytest.approx(float((want * LINE**2).sum()), abs=1e-6)


def test_what_is_given_stays_as_it_is():
    module = GaussianActions(LINE, std=0.2)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = torch.get_rng_state()
    first = EMPolicySearch(module).run(two_peaks(0.3))
    again = EMPolicySearch(module).run(two_peaks(0.3))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.action_probs, again.action_probs)
    assert not first.action_probs.requires_grad
    assert float(first.details["module"].mean.detach()) != float(module.mean.detach())


@pytest.mark.parametrize("backend", [RewardWeightedRegression, EMPolicySearch])
def test_a_spread_that_has_no_maximum_stays_a_number(backend):
    """Both ends are better than the middle: the likelihood only grows with the spread, and has no maximum."""
    # Once: L-BFGS ends at 1e160 here, and every row is NaN with status success.
    reward = [[-0.11063601694106884, -5.191218073831949, -0.20703476855961198]]
    model = TrajectoryModel(MDP(np.ones((1, 3, 1)), [1.0]), reward, horizon=4)
    got = backend(GaussianActions([-1.0, 0.0, 1.0])).run(model)
    holds_no_nan(got)
    found = got.details["objective"]
    assert all(math.isfinite(x) for x in found)
    assert found[-1] >= objective_of_uniform(reward[0], 4) - 1e-6
    # Limits of ever wider Gaussians are e^{c x}, and none of them is better than this one under the posterior.
    weights = np.exp(reward[0])
    mean = float((weights / weights.sum()) @ [-1.0, 0.0, 1.0])
    if backend is RewardWeightedRegression:
        assert float(got.action_probs[0, 0] @ torch.tensor([-1.0, 0.0, 1.0]).double()) == pytest.approx(mean, abs=1e-3)


def objective_of_uniform(reward, horizon):
    return horizon * math.log(np.exp(reward).mean())


# ---- hard control by soft steps ----------------------------------------------------------------------------------


def hard_of(problem):
    """(the optimal return, an optimal policy) in reward units, by Bellman's recursion."""
    policy, value = backed_up(problem, hardly(problem), truly(1.0))
    return mean([(p, value(0, s)) for s, p in enumerate(problem.initial)]), policy


def failed(problem):
    return Status.IMPOSSIBLE if exact(problem).log_evidence == -INF else Status.UNAVOIDABLE


@over_seeds(range(20), quick=7)
def test_posterior_policy_iteration_is_its_sequence(seeds):
    for seed in seeds:
        problem = random_problem(seed + 600)
        got = PosteriorPolicyIteration(max_iterations=6, tolerance=1e-12).run(problem.model)
        if hard_of(problem)[0] == -INF:
            assert got.status is failed(problem)
            continue
        policy = prior_of(problem)
        for number in got.details["returns"]:
            assert close(number, walked(problem, policy)[0]), seed
            last = policy
            policy, _ = backed_up(problem, softly(problem, policy), truly(problem.temperature))
        for key, row in tables(problem, got).items():
            assert row == pytest.approx(last[key], abs=1e-8), (seed, key)


@over_seeds(range(60), quick=15)
def test_posterior_policy_iteration_closes_the_gap(seeds):
    for seed in seeds:
        problem = random_problem(seed + 700)
        got = PosteriorPolicyIteration(max_iterations=150).run(problem.model)
        optimum, best = hard_of(problem)
        if optimum == -INF:
            assert got.status is failed(problem), seed
            assert float(got.elbo) == -INF
            continue
        returns, size = got.details["returns"], max(1.0, abs(optimum))
        assert close(got.details["optimum"], optimum), seed
        distance = walked(problem, best, prior_of(problem))[1]
        for n, number in enumerate(returns[1:], 1):
            assert optimum - number <= problem.temperature * distance / n + 1e-9 * size, (seed, n)
        assert all(high >= low - 1e-9 * size for low, high in itertools.pairwise(returns)), seed
        assert close(got.details["gap"], max(0.0, optimum - returns[-1]))
        assert close(got.believed_return, returns[-1]), seed
        assert got.status is (Status.SUCCESS if got.details["gap"] <= 1e-6 * size else Status.NOT_CONVERGED), seed
        assert float(got.luck) == 0.0
        if got.status.ok:
            assert float(got.believed_return) == pytest.approx(
                float(ValueIteration().run(problem.model).believed_return), rel=2e-6, abs=2e-6
            )


def nearest_safe(problem):
    """The policy nearest to the prior in KL that never meets -inf."""
    return backed_up(
        problem,
        softly(problem, prior_of(problem)),
        lambda outcomes: mean([(p, -INF if r == -INF else v) for p, r, v in outcomes]),
    )[0]


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 5.0])
@over_seeds(range(15), quick=5, blocks=1)
def test_policy_iteration_bounded_in_kl(epsilon, seeds):
    moved = 0
    for seed in seeds:
        problem = random_problem(seed + 800)
        got = KLPolicyIteration(epsilon=epsilon).run(problem.model)
        optimum, best = hard_of(problem)
        if optimum == -INF:
            assert got.status is failed(problem), seed
            assert float(got.elbo) == -INF
            continue
        assert got.status is Status.SUCCESS, seed
        returns, size = got.details["returns"], max(1.0, abs(optimum))
        steps = len(returns) - 1
        moved = max(moved, steps)
        start = nearest_safe(problem)
        assert close(returns[0], walked(problem, start)[0], 1e-8), seed
        assert math.isfinite(returns[0])
        assert len(got.details["divergences"]) == len(got.details["temperatures"]) == steps
        assert max(got.details["divergences"]) <= epsilon * (1 + 1e-9), seed
        assert min(got.details["divergences"]) >= 0
        # All steps but the last use up epsilon, to the 1e-6 of the bisection.
        for divergence, temperature in list(zip(got.details["divergences"], got.details["temperatures"], strict=True))[
            :-1
        ]:
            assert divergence >= epsilon * (1 - 1e-5), seed
            assert temperature > 0
        assert steps <= walked(problem, best, start)[1] / epsilon * (1 + 2e-5) + 1 + 1e-6, seed
        assert all(high >= low - 1e-9 * size for low, high in itertools.pairwise(returns)), seed
        assert optimum - returns[-1] <= 1e-6 * size
        assert close(got.believed_return, returns[-1])
    assert moved > (5 if epsilon < 0.1 else 0)


def test_every_step_is_the_best_within_its_bound():
    """One state, one step: pi is proportional to prior e^{r / heat}, at the heat that spends epsilon, by bisection."""
    reward, prior, epsilon = np.array([0.0, 1.0, 3.0]), np.array([0.6, 0.3, 0.1]), 0.1
    model = TrajectoryModel(MDP(np.ones((1, 3, 1)), [1.0]), reward[None], horizon=1, action_prior=prior)
    got = KLPolicyIteration(epsilon=epsilon).run(model)
    policy = prior
    for n, number in enumerate(got.details["returns"][1:-1]):
        low, high = 1e-3, 1e3

        def at(heat, policy=policy):
            raw = policy * np.exp((reward - 3) / heat)
            new = raw / raw.sum()
            return new, float((new * np.log(new / policy)).sum())

        for _ in range(200):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if at(middle)[1] <= epsilon else (middle, high)
        policy = at(high)[0]
        assert number == pytest.approx(float(policy @ reward), abs=1e-4 * (n + 1))
        assert got.details["temperatures"][n] == pytest.approx(high, rel=1e-3)
    assert n >= 3
    assert got.details["temperatures"][-1] == 0.0
    assert got.details["returns"][-1] == pytest.approx(3.0, abs=1e-6)


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
def test_the_temperature_only_warms_up_the_bounded_steps(temperature):
    problem = random_problem(811, forbidden=False, horizon=3)
    want = KLPolicyIteration(epsilon=0.3).run(problem.model)
    got = KLPolicyIteration(epsilon=0.3).run(problem.model.replace(temperature=temperature))
    assert got.details["returns"] == pytest.approx(want.details["returns"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("size", [1e-4, 1.0, 1e4])
def test_sequences_at_any_size_of_rewards(size):
    for seed in range(6):
        problem = random_problem(seed + 900, forbidden=False, reward="sa")
        model = problem.model.replace(reward=TableReward(size * problem.model.reward.table))
        optimum = float(ValueIteration().run(model).believed_return)
        for backend in (PosteriorPolicyIteration(max_iterations=50), KLPolicyIteration(epsilon=1.0)):
            got = backend.run(model)
            returns = got.details["returns"]
            assert all(b >= a - 1e-9 * max(1.0, abs(a)) for a, b in itertools.pairwise(returns)), (seed, backend.name)
            if got.status.ok:
                assert float(got.believed_return) == pytest.approx(optimum, rel=2e-6, abs=2e-6), (seed, backend.name)
            assert got.status.ok or backend.name == "posterior-policy-iteration", seed
            holds_no_nan(got)


@pytest.mark.parametrize(
    "backend", [PosteriorPolicyIteration(max_iterations=2), KLPolicyIteration(epsilon=0.05, max_iterations=2)]
)
def test_what_has_not_converged_is_of_use(backend):
    model = bridge(slip=0.2, horizon=8)
    got = backend.run(model)
    assert got.status is Status.NOT_CONVERGED
    returns = got.details["returns"]
    assert len(returns) == 3
    assert returns[0] < returns[1] < returns[2] < got.details["optimum"]
    assert got.details["gap"] == pytest.approx(got.details["optimum"] - returns[2])
    policy = cai.extract_policy(got)
    assert cai.evaluate(policy, model, num_rollouts=2).expected_return == pytest.approx(returns[2], abs=1e-9)
    with pytest.raises(InferenceError, match=r"not converged.*not final"):
        cai.infer(model, backend)


@pytest.mark.parametrize(
    "backend", [PosteriorPolicyIteration(max_iterations=2), EMPolicySearch(max_iterations=2)], ids=lambda b: b.name
)
def test_the_advice_names_an_option_that_there_is(backend):
    # Once it named options that these have not.
    with pytest.raises(InferenceError, match="max_iterations"):
        cai.infer(bridge(slip=0.2, horizon=8), backend)


@pytest.mark.parametrize("backend", [EMPolicySearch(), PosteriorPolicyIteration()], ids=["em", "posterior"])
def test_an_interruption_keeps_what_was_done(monkeypatch, backend):
    # Once: the interruption goes through, and the iterations are lost.
    def until_third(total, description):
        yield from range(2)
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "progress", until_third)
    try:
        got = backend.run(bridge(slip=0.2, horizon=8))
    except KeyboardInterrupt:
        pytest.fail("what was done is lost")
    assert got.status is Status.NOT_CONVERGED
    assert len(got.details["objective" if backend.name == "em" else "returns"]) == 3


# ---- what is forbidden -------------------------------------------------------------------------------------------

SEARCHES = ["reward-weighted", "em", "posterior-policy-iteration", "kl-policy-iteration"]


def ledge(falls):
    """Action 1 pays 1 and may fall off, which is forbidden; action 0 is safe unless `falls`."""
    safe = [0.5, 0.5] if falls else [1.0, 0.0]
    mdp = MDP([[safe, [0.5, 0.5]], [[0.0, 1.0]] * 2], [1.0, 0.0])
    reward = torch.zeros(2, 2, 2, dtype=torch.float64)
    reward[0, 1] = 1.0
    reward[:, :, 1] = -INF
    return TrajectoryModel(mdp, TableReward(reward), horizon=3, action_prior=[0.4, 0.6])


@pytest.mark.parametrize("name", ["posterior-policy-iteration", "kl-policy-iteration"])
def test_what_is_forbidden_is_avoided_where_it_can_be(name):
    got = cai.infer(ledge(falls=False), name)
    assert got.action_probs[:, 0].tolist() == [[1.0, 0.0]] * 3
    assert float(got.believed_return) == 0.0
    assert got.details["returns"][0] == (-INF if name.startswith("posterior") else 0.0)
    assert float(got.elbo) == pytest.approx(3 * math.log(0.4), abs=1e-9)
    holds_no_nan(got)
    got = cai.infer(ledge(falls=True), name, throw=False)
    assert got.status is Status.UNAVOIDABLE
    assert float(got.elbo) == -INF
    holds_no_nan(got)
    with pytest.raises(InferenceError, match=r"no policy.* can rule out a reward of -inf.*target 'exact'"):
        cai.infer(ledge(falls=True), name)


@pytest.mark.parametrize("name", ["reward-weighted", "em"])
@pytest.mark.parametrize("falls", [True, False])
def test_regression_on_luck_takes_what_is_forbidden_in_the_true_world(name, falls):
    """Lucky trajectories do not fall, and a half that falls is cheaper than nothing at all: e / 2 > 1."""
    got = cai.infer(ledge(falls), name, throw=False)
    assert float(got.action_probs[0, 0, 1]) > 0.6
    assert float(got.believed_return) == -INF
    assert float(got.elbo) == -INF
    assert got.details["objective"][-1] > -INF
    holds_no_nan(got)


@pytest.mark.parametrize("name", SEARCHES)
def test_rewards_in_small_units_are_searched_as_far(name):
    model, unit = random_mdp(3, num_states=6, num_actions=3, horizon=5), 2.0**-40
    small = model.replace(reward=model.reward * unit, temperature=model.temperature * unit)
    wanted, got = (cai.infer(problem, name) for problem in (model, small))
    assert torch.equal(got.action_probs, wanted.action_probs)
    assert float(got.believed_return) == unit * float(wanted.believed_return)


@pytest.mark.parametrize("name", SEARCHES)
def test_impossible_optimality(name):
    model = TrajectoryModel(MDP([[[1.0], [1.0]]], [1.0]), -INF, horizon=3, action_prior=[0.2, 0.8])
    got = cai.infer(model, name, throw=False)
    assert got.status is Status.IMPOSSIBLE
    assert float(got.elbo) == -INF
    assert got.action_probs[:, 0].tolist() == pytest.approx(np.array([[0.2, 0.8]] * 3))
    holds_no_nan(got)
    with pytest.raises(InferenceError, match=rf"'{name}'.*p\(O\) = 0.*look at the -inf rewards"):
        cai.infer(model, name)


@pytest.mark.parametrize("name", ["posterior-policy-iteration", "kl-policy-iteration"])
@over_seeds(range(100), quick=[15, 20, 62, 70, 72], blocks=1)
def test_unavoidable_rewards_on_random_problems(name, seeds):
    seen = set()
    for seed in seeds:
        problem = random_problem(seed + 1000)
        if not any(-INF in r for outcomes in problem.outcomes for row in outcomes for _, _, r in row):
            continue
        got = cai.infer(problem.model, name, throw=False, max_iterations=30)
        optimum = hard_of(problem)[0]
        if optimum == -INF:
            assert got.status is failed(problem), seed
        else:
            assert got.status in (Status.SUCCESS, Status.NOT_CONVERGED), seed
            assert math.isfinite(float(got.elbo)), seed
        seen.add(got.status)
        holds_no_nan(got)
    assert {Status.IMPOSSIBLE, Status.UNAVOIDABLE, Status.SUCCESS} <= seen


# ---- the door ----------------------------------------------------------------------------------------------------

REFUSED = {
    **{
        f"epsilon {value}": (
            lambda value=value: KLPolicyIteration(epsilon=value),
            ValueError,
            "epsilon is .*finite number of nats above 0",
        )
        for value in (0, -1, math.nan, INF)
    },
    "no iterations": (lambda: EMPolicySearch(max_iterations=0), ValueError, "max_iterations is 0; it must be >= 1"),
    "no tolerance": (lambda: KLPolicyIteration(tolerance=0.0), ValueError, "tolerance is 0.0; it must be > 0"),
    "nan": (lambda: PosteriorPolicyIteration(tolerance=math.nan), ValueError, "tolerance is nan; it must be > 0"),
    "a word": (lambda: RewardWeightedRegression("free"), TypeError, r"policy is 'free'; expected TabularPolicy\(\)"),
    "a class": (lambda: EMPolicySearch(StationaryPolicy), TypeError, r"pass an instance: StationaryPolicy\(...\)"),
    "positions nan": (
        lambda: GaussianActions([0.0, math.nan]),
        ValueError,
        r"positions\[1\] is nan; give each action a finite place",
    ),
    "positions 2d": (lambda: GaussianActions([[0.0, 1.0]]), ValueError, r"positions has shape \[1, 2\]; expected"),
    # Once: "math domain error"
    "positions equal": (lambda: GaussianActions([1.0, 1.0]), ValueError, "positions"),
    "no positions": (lambda: GaussianActions([]), ValueError, r"positions has shape \[0\]"),
    "std 0": (lambda: GaussianActions([0.0, 1.0], std=0.0), ValueError, "std is 0.0; expected a finite number above 0"),
    "std inf": (
        lambda: GaussianActions([0.0, 1.0], std=INF),
        ValueError,
        "std is inf; expected a finite number above 0",
    ),
    "positions unfit": (
        lambda: cai.infer(bridge(), RewardWeightedRegression(GaussianActions(LINE))),
        ValueError,
        r"shape \[1, 41\]; expected logits \[N, A\] = \[1, 4\]",
    ),
    "observations unfit": (
        lambda: cai.infer(bridge(), EMPolicySearch(ObservationPolicy([0, 1]))),
        ValueError,
        r"observations has shape \[2\]; the problem has S = ",
    ),
    **{
        f"{name} endless": (
            lambda name=name: cai.infer(bridge(horizon=INF), name),
            ValueError,
            rf"'{name}' needs a finite horizon.*horizon=N, or use '(exact|value-iteration)'",
        )
        for name in SEARCHES
    },
    **{
        f"{name} program": (
            lambda name=name: cai.infer(lambda: None, name),
            ValueError,
            rf"'{name}'.*TrajectoryModel.*Pyro program.*'enumeration'",
        )
        for name in SEARCHES
    },
}


@pytest.mark.parametrize(("build", "error", "pattern"), REFUSED.values(), ids=list(REFUSED))
def test_refusals(build, error, pattern):
    check(build, error, pattern)


def test_options_by_name():
    got = cai.infer(bridge(slip=0.2, horizon=6), "kl-policy-iteration:epsilon=2,tolerance=1e-3")
    assert max(got.details["divergences"]) <= 2.0
    assert cai.infer(bridge(slip=0.2, horizon=6), "em:max_iterations=50").status is Status.SUCCESS


@pytest.mark.parametrize("backend", ["em", "reward-weighted"])
def test_a_return_of_minus_infinity_is_explained(backend):
    """Trajectories that meet -inf count nothing to these backends, and their policies may meet it."""
    moves = torch.tensor([[[0.5, 0.3, 0.2], [0.0, 0.9, 0.1]], [[0, 1.0, 0]] * 2, [[0, 0, 1.0]] * 2]).double()
    rewards = torch.zeros(3, 2).double()
    rewards[0], rewards[2] = -0.3, -math.inf
    model = TrajectoryModel(MDP(moves / moves.sum(-1, keepdim=True), 0), rewards, horizon=5)
    (row,) = cai.compare(model, [backend], num_rollouts=2).rows
    assert float(row.posterior.elbo) == -math.inf
    assert "can meet a reward of -inf" in row.detail
