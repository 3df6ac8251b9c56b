"""The laws of the theory, on random problems, over every backend."""

import math

import numpy as np
import pytest
import torch
from campaigns import each_seed, over_methods, over_seeds
from methods import ALL, EXACT, FIXED, LEARNED, SAMPLED
from oracle import exact, fixed, log_beta, log_sum, random_problem

from cai.inference import Status, StructuredVariational, SumProduct
from cai.models import MDP, OutcomeReward, TableReward, TrajectoryModel

PROBLEMS = range(200)


def close(left, right, tolerance, size=1.0):
    left, right = float(left), float(right)
    if math.isinf(left) or math.isinf(right):
        return left == right
    return abs(left - right) <= tolerance * max(1.0, abs(right), size)


def run(method, model):
    return method.backend.run(model, seed=0)


@over_methods(EXACT, PROBLEMS, quick=40, blocks=4)
def test_exact_posterior_is_brute_force(method, seeds):
    for seed in seeds:
        problem = method.problem(seed)
        want, got = exact(problem), run(method, problem.model)
        if want.log_evidence == -math.inf:
            assert got.status is Status.IMPOSSIBLE, seed
            assert float(got.elbo) == -math.inf
            continue
        assert got.status is Status.SUCCESS, (seed, got.status)
        tolerance = method.tolerance
        assert close(got.elbo, want.log_evidence, tolerance), seed
        if method.has_evidence:
            assert close(got.log_evidence, want.log_evidence, tolerance), seed
        assert np.allclose(got.state_marginals.numpy(), want.marginals, atol=tolerance), seed
        assert np.allclose(got.absorbed.numpy(), 1 - want.marginals.sum(-1), atol=tolerance), seed
        assert close(got.believed_return, want.believed_return, tolerance), seed
        assert close(got.policy_divergence, want.policy_divergence, tolerance), seed
        assert close(got.policy_entropy, want.policy_entropy, tolerance), seed
        assert close(got.luck, want.luck, tolerance), seed
        # A row is divided by the probability of its state, and its error with it.
        for (t, state), row in want.policy.items():
            slack = tolerance / want.marginals[t, state]
            assert np.allclose(got.action_probs[t, state].numpy(), row, atol=max(slack, 1e-9)), (seed, t, state)
        for (t, state, action), row in want.dynamics.items():
            slack = tolerance / (want.marginals[t, state] * want.policy[t, state][action])
            assert np.allclose(got.dynamics(t)[state, action].numpy(), row, atol=max(slack, 1e-9)), (seed, t, state)


@over_methods([m for m in EXACT if m.has_values], PROBLEMS, quick=40)
def test_exact_values_are_log_probabilities_of_optimality(method, seeds):
    for seed in seeds:
        problem = method.problem(seed)
        got = run(method, problem.model)
        for t in range(problem.horizon):
            for state in range(problem.num_states):
                want = problem.temperature * log_beta(problem, state, t)
                assert close(got.values[t, state], want, 1e-9), (seed, t, state)


@over_methods(FIXED, PROBLEMS, quick=40, blocks=4)
def test_fixed_dynamics_are_the_soft_bellman_recursion(method, seeds):
    for seed in seeds:
        problem = method.problem(seed)
        got = run(method, problem.model)
        rows = [fixed(problem, state, 0)[0] for state in range(problem.num_states)]
        chances = [(p, v) for p, v in zip(problem.initial, rows, strict=True) if p > 0]
        want = -math.inf if any(v == -math.inf for _, v in chances) else math.fsum(p * v for p, v in chances)
        evidence = exact(problem).log_evidence
        if want == -math.inf:
            assert got.status is (Status.IMPOSSIBLE if evidence == -math.inf else Status.UNAVOIDABLE), seed
            assert float(got.elbo) == -math.inf
            continue
        assert got.status is Status.SUCCESS, (seed, got.status)
        assert close(got.elbo, want, method.tolerance), seed
        assert float(got.elbo) <= evidence + 1e-9 * max(1.0, abs(evidence)), seed
        assert float(got.luck) == 0.0
        for t in range(problem.horizon):
            for state in range(problem.num_states):
                weight = float(got.state_marginals[t, state])
                if weight == 0.0 and not method.has_values:
                    continue  # SVI learns nothing of rows that it never visits
                value, row = fixed(problem, state, t)
                if row is not None:
                    slack = method.tolerance / weight if not method.has_values else 1e-9
                    assert np.allclose(got.action_probs[t, state].numpy(), row, atol=max(slack, 1e-9)), (seed, t, state)
                if method.has_values:
                    assert close(got.values[t, state], problem.temperature * value, 1e-9), (seed, t, state)


@over_methods(ALL + SAMPLED + LEARNED, range(60), quick=12)
def test_bounds_decompose(method, seeds):
    """log p(O) = believed return / alpha - KL(policy) - luck; without the luck it is the bound of fixed dynamics."""
    for seed in seeds:
        problem = method.problem(seed + 1000)
        got = run(method, problem.model)
        if not got.status.ok:
            continue
        parts = got.believed_return / problem.temperature - got.policy_divergence - got.luck
        assert close(parts, got.elbo, method.tolerance), seed
        assert float(got.luck) >= 0
        assert float(got.policy_divergence) >= 0


@over_methods(FIXED, range(40), quick=15)
def test_the_bound_is_tight_in_a_deterministic_world(method, seeds):
    for seed in seeds:
        problem = method.problem(seed + 2000, deterministic=True, discount=1.0)
        evidence = SumProduct().run(problem.model)
        got = run(method, problem.model)
        assert got.status is evidence.status, seed
        assert close(got.elbo, evidence.log_evidence, method.tolerance), seed


@over_methods(ALL + SAMPLED, range(25), quick=6)
def test_a_reward_shift_moves_the_evidence_and_no_policy(method, seeds):
    for seed in seeds:
        problem = method.problem(seed + 3000, reward="sa", discount=1.0, terminals=0.0)
        shift = 1.7
        table = problem.model.reward.table
        before, after = run(method, problem.model), run(method, problem.model.replace(reward=table + shift))
        assert after.status is before.status
        want = before.elbo + problem.horizon * shift / problem.temperature
        assert close(after.elbo, want, method.tolerance), seed
        assert torch.allclose(after.action_probs, before.action_probs, atol=1e-6), seed


@over_methods(FIXED, range(25), quick=8)
def test_a_reward_shift_is_discounted_with_fixed_dynamics(method, seeds):
    for seed in seeds:
        problem = method.problem(seed + 3000, reward="sas", discount=0.8, terminals=0.0)
        shift = 1.7
        table = problem.model.reward.table
        before, after = (
            run(method, problem.model),
            run(method, problem.model.replace(reward=TableReward(table + shift))),
        )
        steps = sum(0.8**t for t in range(problem.horizon))
        want = before.elbo + steps * shift / problem.temperature
        assert close(after.elbo, want, method.tolerance), seed
        assert torch.allclose(after.action_probs, before.action_probs, atol=1e-6), seed


@over_methods([m for m in ALL if m.sees_prior], range(25), quick=6)
def test_a_prior_can_be_folded_into_the_reward(method, seeds):
    """r + alpha log(p / u) with the uniform prior u is the same posterior."""
    for seed in seeds:
        problem = method.problem(seed + 4000, reward="sa", terminals=0.0)
        model = problem.model
        uniform = model.mdp.available.double() / model.mdp.available.sum(-1, keepdim=True)
        ratio = torch.where(model.action_prior > 0, model.action_prior / uniform, torch.ones(()).double())
        bonus = torch.where(model.action_prior > 0, ratio.log(), torch.full((), -torch.inf).double())
        bonus = torch.where(model.mdp.available, bonus, torch.zeros(()).double())
        folded = model.replace(reward=model.reward.table + model.temperature * bonus, action_prior=None)
        before, after = run(method, model), run(method, folded)
        assert after.status is before.status, seed
        if before.status.ok:
            assert close(after.elbo, before.elbo, method.tolerance), seed
            seen = before.state_marginals[:-1] > 1e-6
            assert torch.allclose(after.action_probs[seen], before.action_probs[seen], atol=1e-6), seed


# the fall, written out, is a chance
@over_methods([m for m in ALL if not m.only], range(30), quick=6)
def test_a_discount_is_an_absorbing_state(method, seeds):
    """gamma in the model = outcomes that lead to an explicit terminal state with probability 1 - gamma."""
    for seed in seeds:
        problem = method.problem(seed + 5000, discount=0.7)
        model, mdp = problem.model, problem.model.mdp
        num_states, num_actions, width = mdp.probabilities.shape
        rewards = torch.stack([model.reward_table(0)] * 2, -1).expand(num_states, num_actions, -1, 2)
        rewards = rewards.expand(num_states, num_actions, width, 2)
        stays = model.continuation_probability[:, None, None, None]
        chances = mdp.probabilities[..., None] * torch.cat([stays, 1 - stays], -1)
        following = mdp.successors().expand(num_states, num_actions, width)[..., None].expand_as(chances).clone()
        following[..., 1] = num_states
        flat = (num_states, num_actions, 2 * width)
        end = torch.full((1, num_actions, 2 * width), num_states)
        sure = torch.zeros(1, num_actions, 2 * width).double()
        sure[..., 0] = 1.0
        explicit = TrajectoryModel(
            MDP.from_successors(
                torch.cat([following.reshape(flat), end]),
                torch.cat([chances.reshape(flat), sure]),
                torch.cat([mdp.initial, torch.zeros(1).double()]),
                available=torch.cat([mdp.available, torch.ones(1, num_actions, dtype=torch.bool)]),
                terminal=torch.cat([mdp.terminal, torch.ones(1, dtype=torch.bool)]),
            ),
            OutcomeReward(torch.cat([rewards.reshape(flat), torch.zeros(1, num_actions, 2 * width).double()])),
            problem.horizon,
            problem.temperature,
            action_prior=torch.cat(
                [model.action_prior, torch.full((1, num_actions), 1 / num_actions, dtype=torch.float64)]
            ),
        )
        short, long = run(method, model), run(method, explicit)
        assert short.status is long.status, seed
        if not short.status.ok:
            continue
        for name in ("elbo", "believed_return", "luck", "policy_divergence", "policy_entropy"):
            assert close(getattr(short, name), getattr(long, name), method.tolerance), (seed, name)
        assert torch.allclose(short.state_marginals, long.state_marginals[:, :-1], atol=method.tolerance), seed
        assert torch.allclose(short.absorbed, long.state_marginals[:, -1], atol=method.tolerance), seed
        seen = short.state_marginals[:-1] > 1e-6
        assert torch.allclose(short.action_probs[seen], long.action_probs[:, :-1][seen], atol=1e-6), seed


@over_methods(ALL + SAMPLED, range(25), quick=6)
def test_optimality_as_a_bernoulli_is_the_same_posterior(method, seeds):
    for seed in seeds:
        problem = method.problem(seed + 6000)
        model = problem.model
        before, after = run(method, model), run(method, model.replace(optimality="bernoulli"))
        assert after.status is before.status, seed
        if not before.status.ok:
            continue
        paid = (model.mdp.probabilities > 0) if model.reward.reads_outcome else slice(None)
        largest = max(float(model.reward_table(t)[paid].max()) for t in model.reward_times)
        if model.mdp.terminal.any() or model.discount < 1:
            largest = max(0.0, largest)
        want = before.elbo - problem.horizon * largest / problem.temperature
        assert close(after.elbo, want, method.tolerance), seed
        assert close(after.believed_return, before.believed_return, method.tolerance), seed
        assert close(after.luck, before.luck, method.tolerance), seed
        assert torch.allclose(after.state_marginals, before.state_marginals, atol=10 * method.tolerance), seed


@over_methods(ALL, range(25), quick=6)
def test_dense_and_successor_lists_agree(method, seeds):
    for seed in seeds:
        problem = method.problem(seed + 7000, reward="sas")
        model, mdp = problem.model, problem.model.mdp
        keys = {"initial": mdp.initial, "available": mdp.available, "terminal": mdp.terminal}
        dense = mdp.dense()
        following = torch.arange(mdp.num_states).expand_as(dense)
        lists = model.replace(mdp=MDP.from_successors(following, dense, **keys))
        left, right = run(method, model.replace(mdp=MDP(dense, **keys))), run(method, lists)
        assert left.status is right.status
        for name in ("elbo", "believed_return", "luck", "policy_divergence", "policy_entropy"):
            if left.status.ok:
                assert close(getattr(left, name), getattr(right, name), method.tolerance), (seed, name)


@each_seed(range(20), quick=8)
def test_cold_limits(seed):
    """As alpha -> 0: hard value iteration for fixed dynamics, the maximum over successors for the exact target."""
    problem = random_problem(seed + 8000, forbidden=False)
    alpha = 1e-4
    model = problem.model.replace(temperature=alpha)
    cold_fixed, cold_exact = StructuredVariational().run(model), SumProduct().run(model)

    def hard(state, t, best_outcome):
        if t == problem.horizon or problem.terminal[state]:
            return 0.0
        totals = []
        for action, prior in enumerate(problem.prior[state]):
            if prior == 0:
                continue
            gains = []
            for probability, following, rewards in problem.outcomes[state][action]:
                if probability == 0:
                    continue
                after = hard(following, t + 1, best_outcome)
                if best_outcome and problem.discount < 1:
                    gains.append(rewards[t] + max(after, 0.0))
                elif best_outcome:
                    gains.append(rewards[t] + after)
                else:
                    gains.append(probability * (rewards[t] + problem.discount * after))
            totals.append(max(gains) if best_outcome else math.fsum(gains))
        return max(totals)

    # What the soft maximum loses is at most -alpha log of the least probable choice, a step.
    least = min(p for row in problem.prior for p in row if p > 0)
    least *= min(p for rows in problem.outcomes for row in rows for p, _, _ in row if p > 0)
    least *= 1 - problem.discount if problem.discount < 1 else 1.0
    slack = -alpha * problem.horizon * math.log(least) + 1e-9
    for state in range(problem.num_states):
        assert float(cold_fixed.values[0, state]) == pytest.approx(hard(state, 0, False), abs=slack)
        assert float(cold_exact.values[0, state]) == pytest.approx(hard(state, 0, True), abs=slack)


@each_seed(range(10), quick=5)
def test_the_evidence_differentiates_to_expected_visits(seed):
    """d log p(O) / d r(s, a) = expected number of times that (s, a) is taken under the posterior, over alpha."""
    problem = random_problem(seed + 9000, reward="sa", forbidden=False, terminals=0.0)
    table = problem.model.reward.table.clone().requires_grad_()
    posterior = SumProduct().run(problem.model.replace(reward=table))
    (slope,) = torch.autograd.grad(posterior.log_evidence, table)
    counts = (posterior.state_marginals[:-1, :, None] * posterior.action_probs).sum(0) / problem.temperature
    assert torch.allclose(slope, counts, atol=1e-9)


@over_seeds(range(40), quick=15)
def test_the_entropy_form_is_levines_recursion(seeds):
    """V = alpha log sum_a exp(Q / alpha), without a prior: the values of Levine 2018, section 2.3."""
    for seed in seeds:
        problem = random_problem(seed + 9500, reward="sa", discount=1.0, forbidden=False)
        model = problem.model.replace(action_prior=None)
        alpha, mdp = model.temperature, model.mdp
        for backend, optimistic in ((SumProduct(), True), (StructuredVariational(), False)):
            values = [0.0] * problem.num_states
            for _ in range(problem.horizon):
                following = list(values)
                for state in range(problem.num_states):
                    if problem.terminal[state]:
                        continue
                    scores = []
                    for action in range(problem.num_actions):
                        if not mdp.available[state, action]:
                            continue
                        outcomes = [(p, r[0] + following[n]) for p, n, r in problem.outcomes[state][action] if p > 0]
                        if optimistic:
                            scores.append(log_sum([math.log(p) + g / alpha for p, g in outcomes]))
                        else:
                            scores.append(math.fsum(p * g / alpha for p, g in outcomes))
                    values[state] = alpha * log_sum(scores)
            got = backend.run(model.entropy_form()).values[0]
            assert got.tolist() == pytest.approx(values, abs=1e-9), seed
