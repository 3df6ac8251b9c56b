"""Exact objectives, gradients, fixed points and residuals, held against every trajectory written out."""

import math

import numpy as np
import pytest
import torch
from oracle import Problem, random_problem

import cai
from cai.inference.learning import exact
from cai.models import MDP, TableReward, TrajectoryModel, bridge, random_mdp

RIGHT = ("return", "baseline", "split", "gae")


def fixed_problem(temperature=0.7, discount=0.9, horizon=3):
    """S = 3, A = 2, T = 3, a prior that is not uniform; found by its seed, and always the same."""
    rng = np.random.default_rng(5)
    chances, rewards = rng.dirichlet(np.ones(3), size=(3, 2)), 2 * rng.normal(size=(3, 2))
    prior, initial = rng.dirichlet(np.ones(2), size=3), rng.dirichlet(np.ones(3))
    model = TrajectoryModel(
        MDP(chances, initial, axes="state-action-state"),
        TableReward(rewards),
        horizon,
        temperature,
        discount,
        action_prior=prior,
    )
    outcomes = [
        [[(float(chances[s, a, n]), n, [float(rewards[s, a])] * 3) for n in range(3)] for a in range(2)]
        for s in range(3)
    ]
    return Problem(initial.tolist(), outcomes, prior.tolist(), [False] * 3, horizon, temperature, discount, model)


def every_path(problem, starts=None, steps=None):
    """All paths as arrays: states [N, T + 1], actions [N, T], rewards [N, T], nonterminal bool [N, T], chances [N].

    The chance is that of start and dynamics, without the policy, and without the discount's fall.
    """
    steps = problem.horizon if steps is None else steps
    chosen = starts or [(s, None, p) for s, p in enumerate(problem.initial) if p > 0]
    found = [([s], [] if a is None else [a], [], [], p) for s, a, p in chosen]
    for t in range(steps):
        longer = []
        for states, actions, rewards, nonterminal, chance in found:
            here = states[-1]
            over = problem.terminal[here]
            for action in range(problem.num_actions):
                if (len(actions) > t and actions[t] != action) or (over and action > 0):
                    continue
                if not over and problem.prior[here][action] == 0:
                    continue
                row = [(1.0, here, [0.0] * 9)] if over else problem.outcomes[here][action]
                for probability, following, paid in row:
                    if probability > 0:
                        taken = [*actions[:t], action]
                        end = (chance * probability,)
                        longer.append(
                            (
                                [*states, following],
                                taken,
                                [*rewards, paid[min(t, len(paid) - 1)]],
                                [*nonterminal, not over],
                                *end,
                            )
                        )
        found = longer
    return [torch.tensor(np.array(part)) for part in zip(*found, strict=True)]


def log_policy(problem, logits):
    """log pi [T, S, A] by its definition, 0 for what is not allowed."""
    allowed = torch.tensor(problem.prior, dtype=torch.float64) > 0
    masked = torch.where(allowed, logits, torch.tensor(-1e300, dtype=torch.float64))
    return torch.where(allowed, masked - masked.logsumexp(-1, keepdim=True), torch.zeros(()).double())


def path_terms(problem, logits):
    """(chances of paths, log pi, log pi / p, rewards, nonterminal, times) of all, with the history of the logits."""
    states, actions, rewards, nonterminal, chance = every_path(problem)
    logs = log_policy(problem, logits)
    prior = torch.tensor(problem.prior, dtype=torch.float64)
    times = torch.arange(problem.horizon)[None]
    taken = torch.where(nonterminal, logs[times, states[:, :-1], actions], 0.0)
    base = torch.where(prior > 0, prior, 1.0).log()[states[:, :-1], actions]
    ratio = torch.where(nonterminal, taken - base, 0.0)
    return states, chance * taken.sum(-1).exp(), taken, ratio, rewards, nonterminal


def written_out(problem, logits):
    _, chance, _, ratio, rewards, _ = path_terms(problem, logits)
    weights = problem.discount ** torch.arange(problem.horizon).double()
    return (chance[:, None] * weights * (rewards - problem.temperature * ratio)).sum()


def soft_values(problem, logits):
    """[T + 1, S], V of the policy by recursion on the definition."""
    probs = log_policy(problem, logits).exp()
    values = torch.zeros(problem.horizon + 1, problem.num_states).double()
    for t in reversed(range(problem.horizon)):
        for s in range(problem.num_states):
            if problem.terminal[s]:
                continue
            for a, prior in enumerate(problem.prior[s]):
                if prior == 0:
                    continue
                worth = sum(
                    p * (paid[t] + problem.discount * float(values[t + 1, n])) for p, n, paid in problem.outcomes[s][a]
                )
                values[t, s] += probs[t, s, a] * (worth - problem.temperature * math.log(probs[t, s, a] / prior))
    return values


def mean_estimate(problem, logits, estimator, gae_lambda):
    """The estimator's mean over every path, each step weighted gamma^t, by the words of its definition."""
    leaf = logits.clone().requires_grad_()
    states, chance, taken, ratio, rewards, nonterminal = path_terms(problem, leaf)
    gamma, alpha, horizon = problem.discount, problem.temperature, problem.horizon
    values = soft_values(problem, logits)
    paid = (rewards - alpha * ratio).detach()
    here = torch.stack([values[t][states[:, t]] for t in range(horizon + 1)], -1)
    scores = torch.zeros_like(paid)
    for t in range(horizon):
        for k in range(t, horizon):
            gain = paid[:, k]
            if estimator == "entropy-bonus" or (estimator == "split" and k == t):
                gain = rewards[:, k]
            if estimator.startswith("gae"):
                gain = rewards[:, k] if estimator == "gae-without-entropy" else paid[:, k]
                gain = gae_lambda ** (k - t) * (gain + gamma * here[:, k + 1] - here[:, k])
            scores[:, t] += gamma ** (k - t) * torch.where(nonterminal[:, k], gain, 0.0)
        if estimator == "baseline":
            scores[:, t] -= here[:, t]
    weights = gamma ** torch.arange(horizon).double() * nonterminal
    total = (chance.detach()[:, None] * weights * scores * taken).sum()
    if estimator in ("split", "gae-without-entropy", "entropy-bonus"):
        logs = log_policy(problem, leaf)
        prior = torch.tensor(problem.prior, dtype=torch.float64)
        kl = (logs.exp() * torch.where(prior > 0, logs - torch.where(prior > 0, prior, 1.0).log(), 0.0)).sum(-1)
        times = torch.arange(horizon)[None]
        total = total - alpha * (chance.detach()[:, None] * weights * kl[times, states[:, :-1]]).sum()
    return torch.autograd.grad(total, leaf)[0]


def random_logits(problem, seed):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(problem.horizon, problem.num_states, problem.num_actions)))


def problems():
    return [fixed_problem()] + [random_problem(seed, forbidden=False) for seed in range(12)]


@pytest.mark.parametrize("index", range(13))
def test_gradients_are_those_of_every_trajectory(index):
    problem = problems()[index]
    logits = random_logits(problem, index).requires_grad_()
    enumerated = written_out(problem, logits)
    expected = torch.autograd.grad(enumerated, logits)[0]
    found = exact.objective(problem.model, logits)
    assert torch.allclose(found, enumerated, atol=1e-12, rtol=0)
    assert torch.allclose(torch.autograd.grad(found, logits)[0], expected, atol=1e-12, rtol=0)
    logits = logits.detach()
    for estimator in RIGHT:
        for gae_lambda in (0.0, 0.6, 1.0) if estimator == "gae" else (0.95,):
            mean = exact.policy_gradient(problem.model, logits, estimator=estimator, gae_lambda=gae_lambda)
            assert torch.allclose(mean, expected, atol=1e-12, rtol=0), estimator
            enumerated = mean_estimate(problem, logits, estimator, gae_lambda)
            assert torch.allclose(mean, enumerated, atol=1e-12, rtol=0), estimator
    for estimator in ("gae-without-entropy", "entropy-bonus"):
        mean = exact.policy_gradient(problem.model, logits, estimator=estimator, gae_lambda=0.6)
        assert torch.allclose(mean, mean_estimate(problem, logits, estimator, 0.6), atol=1e-12, rtol=0)
    shared = exact.policy_gradient(problem.model, logits[0])
    repeated = exact.policy_gradient(problem.model, logits[0].expand_as(logits))
    assert torch.allclose(shared, repeated.sum(0), atol=1e-13)


def test_two_estimators_are_wrong():
    problem = fixed_problem()
    logits = random_logits(problem, 3)
    right = exact.policy_gradient(problem.model, logits)

    def miss(estimator, gae_lambda=0.95):
        found = exact.policy_gradient(problem.model, logits, estimator=estimator, gae_lambda=gae_lambda)
        return float((found - right).norm() / right.norm())

    assert miss("gae-without-entropy") > 0.005
    assert miss("gae-without-entropy", 0.5) > 0.005
    assert miss("gae-without-entropy", 0.0) < 1e-12
    assert miss("entropy-bonus") > 0.005


def test_the_objective_is_the_bound_of_the_policy():
    model = bridge(horizon=6, discount=0.9)
    answer = cai.infer(model, "variational")
    found = exact.objective(model, answer.action_probs.log().clamp(min=-700))
    assert torch.allclose(found, model.temperature * answer.elbo, atol=1e-10)
    assert float(exact.policy_gradient(model, answer.action_probs.log().clamp(min=-700)).abs().max()) < 1e-9


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_soft_q_learning_is_a_policy_and_a_value_gradient(seed, steps):
    """Schulman's identity, and each of the three by autograd of its words over every path of n steps."""
    problem = random_problem(seed, forbidden=False, horizon=3, discount=0.9)
    model = problem.model.replace(horizon=math.inf)
    rng = np.random.default_rng(seed)
    q_values = torch.tensor(rng.normal(size=(problem.num_states, problem.num_actions)))
    weights = torch.tensor(rng.random(problem.num_states))
    soft_q, policy, value = exact.soft_q_gradient(model, q_values, steps=steps, state_weights=weights)
    assert torch.allclose(soft_q, value - problem.temperature * policy, atol=1e-10, rtol=0)

    gamma, alpha, prior = problem.discount, problem.temperature, torch.tensor(problem.prior, dtype=torch.float64)
    leaf = q_values.clone().requires_grad_()
    scores = torch.where(prior > 0, prior.log() + leaf / alpha, torch.tensor(-1e300, dtype=torch.float64))
    values, nonterminal = alpha * scores.logsumexp(-1), ~torch.tensor(problem.terminal)
    probs = torch.where(prior > 0, (scores - values[:, None] / alpha).exp(), 0.0)
    ratio = torch.where(prior > 0, (leaf - values[:, None]) / alpha, 0.0)
    fixed_probs, fixed_ratio, fixed_values = (
        probs.detach(),
        ratio.detach(),
        torch.where(nonterminal, values.detach(), 0.0),
    )
    target = torch.zeros_like(q_values)
    for s in range(problem.num_states):
        for a in range(problem.num_actions):
            if prior[s, a] == 0 or problem.terminal[s]:
                continue
            states, actions, rewards, alive, chance = every_path(problem, [(s, a, 1.0)], steps)
            y = gamma**steps * fixed_values[states[:, -1]]
            for i in range(steps):
                y = y + gamma**i * torch.where(alive[:, i], rewards[:, i], 0.0)
                if i:
                    step = fixed_ratio[states[:, i], actions[:, i]]
                    y = y - alpha * gamma**i * torch.where(alive[:, i], step, 0.0)
                    taken = fixed_probs[states[:, i], actions[:, i]]
                    chance = chance * torch.where(alive[:, i], taken, 1.0)
            assert torch.allclose(chance.sum(), torch.ones(()).double())
            target[s, a] = (chance * y).sum()
    counted = weights * nonterminal
    losses = (
        (counted[:, None] * fixed_probs * (leaf - target) ** 2 / 2).sum(),
        (counted * ((probs * (target - fixed_values[:, None])).sum(-1) - alpha * (probs * ratio).sum(-1))).sum(),
        (counted * (values - (fixed_probs * (target - alpha * fixed_ratio)).sum(-1)) ** 2 / 2).sum(),
    )
    for found, loss in zip((soft_q, policy, value), losses, strict=True):
        expected = torch.autograd.grad(loss, leaf, retain_graph=True)[0]
        assert torch.allclose(found, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("seed", range(8))
def test_actor_critic_ends_at_the_variational_answer(seed):
    problem = random_problem(seed, horizon=2, discount=0.9)
    model = problem.model.replace(horizon=math.inf)
    answer = cai.infer(model, "variational", throw=False)
    values, q_values, probs, temperature = exact.soft_actor_critic(model)
    scale = 1 + float(answer.values[torch.isfinite(answer.values)].abs().max())
    same = torch.where(values == answer.values[0], 0.0, (values - answer.values[0]).abs())
    assert float(same.max()) <= 1e-12 * scale
    finite = torch.isfinite(answer.q_values[0]) & model.nonterminal[:, None] & (model.action_prior > 0)
    assert torch.allclose(q_values[finite], answer.q_values[0][finite], atol=1e-12 * scale, rtol=0)
    assert torch.allclose(probs, answer.action_probs[0], atol=1e-11, rtol=0)
    assert temperature == model.temperature


def test_a_learned_temperature_has_the_target_entropy():
    model = random_mdp(horizon=math.inf, discount=0.9)
    weights = torch.linspace(1, 2, 8).double()
    for target in (0.3, 0.8):
        values, _, probs, temperature = exact.soft_actor_critic(model, target_entropy=target, state_weights=weights)
        answer = cai.infer(model.replace(temperature=temperature), "variational")
        entropy = torch.special.entr(answer.action_probs[0]).sum(-1)
        assert abs(float((weights * entropy).sum() / weights.sum()) - target) < 1e-6
        assert torch.allclose(probs, answer.action_probs[0], atol=1e-9)
        assert torch.allclose(values, answer.values[0], atol=1e-9)
    with pytest.raises(ValueError, match="have entropies from"):
        exact.soft_actor_critic(model, target_entropy=math.log(3) + 0.1)
    with pytest.raises(ValueError, match="target_entropy is nan; give a finite number of nats"):
        exact.soft_actor_critic(model, target_entropy=math.nan)
    prior = torch.tensor([0.5, 0.3, 0.2])
    with pytest.raises(ValueError, match="uniform action prior"):
        exact.soft_actor_critic(model.replace(action_prior=prior), target_entropy=0.5)


@pytest.mark.parametrize("gamma", [0.5, 0.9])
def test_entropy_form_stops_less_often(gamma):
    """One nonterminal state, stop and stay, no reward: 1/2 in the KL form; e^-V, V = log(1 + e^(gamma V)), in that."""
    mdp = MDP([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]], [1.0, 0.0], terminal=[1])
    model = TrajectoryModel(mdp, 0.0, math.inf, 1.0, gamma)
    assert abs(float(exact.soft_actor_critic(model)[2][0, 0]) - 0.5) < 1e-12
    expected = {0.5: 0.381966, 0.9: 0.164921}[gamma]
    assert abs(float(exact.soft_actor_critic(model.entropy_form())[2][0, 0]) - expected) < 1e-6


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("finite", [True, False])
def test_paths_of_deterministic_models_are_consistent_at_the_optimum(seed, finite):
    problem = random_problem(seed, deterministic=True, forbidden=False, horizon=3, discount=0.9)
    model = problem.model if finite else problem.model.replace(horizon=math.inf)
    answer = cai.infer(model, "variational")
    rng = np.random.default_rng(seed)
    for length in (1, 2, 3):
        states, actions = [], []
        for _ in range(20):
            path, taken = [int(rng.integers(problem.num_states))], []
            for _ in range(length):
                here = path[-1]
                taken.append(int(rng.choice(np.flatnonzero(problem.prior[here]))))
                row = (
                    [(here, 1.0)]
                    if problem.terminal[here]
                    else [(n, p) for p, n, _ in problem.outcomes[here][taken[-1]]]
                )
                path.append(next(n for n, p in row if p > 0))
            states.append(path)
            actions.append(taken)
        found = exact.path_residuals(model, answer.values, answer.action_probs, states, actions)
        assert found.shape == (20,)
        assert float(found.abs().max()) < 1e-10
        if not finite:
            again = exact.path_residuals(model, answer.values[0], answer.action_probs[0], states, actions)
            assert torch.equal(found, again)


def test_residuals_of_random_models_are_zero_in_the_mean_alone():
    problem = fixed_problem()
    model = problem.model.replace(horizon=math.inf)
    answer = cai.infer(model, "variational")
    following = torch.arange(3)
    states = torch.stack([torch.zeros(3, dtype=torch.int64), following], -1)
    found = exact.path_residuals(
        model, answer.values, answer.action_probs, states, torch.zeros(3, 1, dtype=torch.int64)
    )
    assert float(found.abs().max()) > 0.01
    assert abs(float((model.mdp.probabilities[0, 0] * found).sum())) < 1e-10


def test_what_does_not_fit_is_refused():
    finite, infinite = random_mdp(horizon=3), random_mdp(horizon=math.inf, discount=0.9)
    zero = torch.zeros(8, 3)
    cases = [
        (lambda: exact.objective(infinite, zero), "finite horizon"),
        (lambda: exact.policy_gradient(finite, torch.zeros(3, 8)), "logits have shape"),
        (lambda: exact.policy_gradient(finite, zero, estimator="reinforce"), "expected one of 'return'"),
        (lambda: exact.policy_gradient(finite, zero, gae_lambda=2.0), "gae_lambda"),
        (lambda: exact.objective(finite, zero * math.nan), "NaN"),
        (lambda: exact.soft_q_gradient(finite, zero), "horizon=math.inf"),
        (lambda: exact.soft_q_gradient(infinite, zero, steps=0), "steps is 0"),
        (lambda: exact.soft_q_gradient(infinite, zero, state_weights=-torch.ones(8)), "negative"),
        (lambda: exact.soft_actor_critic(finite), "horizon=math.inf"),
        (lambda: exact.path_residuals(infinite, torch.zeros(8), zero, [[0, 1]], [[0, 1]]), "states have shape"),
        (lambda: exact.path_residuals(infinite, torch.zeros(8), zero, [[0, 99]], [[0]]), "not possible"),
        (lambda: exact.path_residuals(infinite, torch.zeros(8), zero, [[0, 1]], [[7]]), "does not exist"),
    ]
    for build, message in cases:
        with pytest.raises(ValueError, match=message):
            build()
    with pytest.raises(TypeError, match=r"states are torch\.float32 and actions torch\.int64; expected whole numbers"):
        exact.path_residuals(infinite, torch.zeros(8), zero, [[0, 1.5]], [[0]])
    with pytest.raises(TypeError, match="needs a TrajectoryModel"):
        exact.objective("bridge", zero)
