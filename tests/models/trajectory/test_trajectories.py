"""Whole trajectories: exact ones by backward sampling, and log q of given ones, against brute force."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch
from example_programs import all_paths, drawn_at_the_end, drawn_first, persistent, windy
from methods import FAILURE_RATE
from oracle import exact, paths, random_problem
from refusals import check, refuse
from scipy.stats import binom

import cai
from cai.inference import Enumeration, StructuredVariational, SumProduct
from cai.inference.core.status import NotKnown
from cai.inference.particles.smc import SequentialMonteCarlo
from cai.models import MDP, TrajectoryModel, random_mdp


def trajectory_probabilities(problem):
    """{(states, actions) until absorbed: posterior probability}, by brute force; S is the absorbing state."""
    found, evidence = defaultdict(float), exact(problem).log_evidence
    for start, chance in enumerate(problem.initial):
        if chance == 0:
            continue
        for steps, probability, reward in paths(problem, start, 0):
            score = math.log(chance) + math.log(probability) + reward / problem.temperature - evidence
            states = [start] + [problem.num_states if following is None else following for _, _, following, _ in steps]
            found[tuple(states), tuple(action for _, action, _, _ in steps)] += math.exp(score)
    return found


def cut(problem, states, actions):
    """A row as `sample` returns it, cut where it is absorbed, and how many idle actions were cut off."""
    states, actions = states.tolist(), actions.tolist()
    if problem.num_states in states:
        end = states.index(problem.num_states)
        return (tuple(states[: end + 1]), tuple(actions[:end])), len(actions) - end
    return (tuple(states), tuple(actions)), 0


def every_trajectory(num_states, num_actions, longer, horizon):
    states = torch.tensor(list(itertools.product(range(num_states), repeat=longer)))
    actions = torch.tensor(list(itertools.product(range(num_actions), repeat=horizon)))
    return states.repeat_interleave(len(actions), 0), actions.repeat(len(states), 1)


def total_probability(posterior):
    num_states, num_actions = posterior.action_prior.shape[-2:]
    falls = isinstance(posterior.model, TrajectoryModel) and posterior.model.discount < 1
    shape = posterior.state_marginals.shape[0], posterior.action_probs.shape[0]
    scores = posterior.log_prob(*every_trajectory(num_states + falls, num_actions, *shape))
    assert not scores.isnan().any()
    return float(scores.exp().sum())


def test_trajectories_follow_brute_force():
    problems = [p for p in map(random_problem, range(30)) if exact(p).log_evidence > -math.inf]
    assert sum(p.discount < 1 for p in problems) > 5
    assert sum(any(p.terminal) for p in problems) > 5
    assert sum(p.model.mdp.next_states is not None for p in problems) > 5
    count = 3000
    tests = sum(len(trajectory_probabilities(p)) + 1 for p in problems)
    for problem in problems:
        want = trajectory_probabilities(problem)
        states, actions = SumProduct().run(problem.model).sample(count, seed=11)
        assert states.shape == (count, problem.horizon + 1)
        assert actions.shape == (count, problem.horizon)
        drawn, idle = defaultdict(int), []
        for row, taken in zip(states, actions, strict=True):
            key, rest = cut(problem, row, taken)
            drawn[key] += 1
            idle += taken.tolist()[problem.horizon - rest :]
        assert all(want[key] > 0 for key in drawn)
        for key, chance in want.items():
            low, high = binom.interval(1 - FAILURE_RATE / tests, count, min(chance, 1.0))
            assert low <= drawn[key] <= high, (problem.model.name, key)
        low, high = binom.interval(1 - FAILURE_RATE / tests, len(idle), 1 / problem.num_actions)
        assert not idle or low <= idle.count(0) <= high


def test_log_prob_is_the_probability_of_a_trajectory():
    absorbed = 0
    for seed in range(120):
        problem = random_problem(seed)
        want = trajectory_probabilities(problem) if exact(problem).log_evidence > -math.inf else None
        if want is None:
            continue
        posterior = SumProduct().run(problem.model)
        states, actions = posterior.sample(60, seed=seed)
        got = posterior.log_prob(states, actions)
        for row, taken, score in zip(states, actions, got.tolist(), strict=True):
            key, rest = cut(problem, row, taken)
            absorbed += rest > 0
            assert score == pytest.approx(math.log(want[key]) - rest * math.log(problem.num_actions), abs=1e-9), seed
    assert absorbed > 100


@pytest.mark.parametrize(
    "backend", [SumProduct(), Enumeration(), StructuredVariational(solver="svi"), SequentialMonteCarlo(50)], ids=str
)
def test_probabilities_of_all_trajectories_add_up_to_one(backend):
    tried = 0
    for seed in range(20):
        posterior = backend.run(random_problem(seed, horizon=2).model)
        if posterior.status.ok:
            tried += 1
            assert total_probability(posterior) == pytest.approx(1.0, abs=1e-8), seed
    assert tried > 10


def test_enumeration_scores_as_the_messages_do():
    tried = 0
    for seed in range(25):
        problem = random_problem(seed, horizon=2)
        if exact(problem).log_evidence == -math.inf:
            continue
        rows = every_trajectory(problem.num_states + (problem.discount < 1), problem.num_actions, 3, 2)
        left, right = (b.run(problem.model).log_prob(*rows) for b in (SumProduct(), Enumeration()))
        tried += problem.model.has_outcome_sites
        assert torch.allclose(left, right, atol=1e-9), seed
        bernoulli = Enumeration().run(problem.model.replace(optimality="bernoulli")).log_prob(*rows)
        assert torch.allclose(left, bernoulli, atol=1e-9), seed
    assert tried > 2


def test_log_prob_of_a_program_sums_its_further_latents_out():
    horizon = 3
    want, total = defaultdict(float), 0.0
    for _, states, actions, prior, score in all_paths(horizon):
        want[states, actions] += prior * math.exp(score)
        total += prior * math.exp(score)
    posterior = cai.infer(persistent(horizon), "enumeration")
    states, actions = every_trajectory(3, 2, horizon + 1, horizon)
    got = posterior.log_prob(states, actions)
    for row, taken, score in zip(states.tolist(), actions.tolist(), got.exp().tolist(), strict=True):
        assert score == pytest.approx(want[tuple(row), tuple(taken)] / total, abs=1e-12)


@pytest.mark.parametrize("kind", [drawn_at_the_end, drawn_first, windy], ids=lambda kind: kind.__name__)
def test_probabilities_of_program_trajectories_add_up_to_one(kind):
    posterior = cai.infer(kind(3), "enumeration")
    assert total_probability(posterior) == pytest.approx(1.0, abs=1e-9)
    states, actions = posterior.sample(50, seed=1)
    assert torch.isfinite(posterior.log_prob(states, actions)).all()


@pytest.mark.parametrize("backend", ["variational", "optimistic", "enumeration"])
def test_samples_of_a_program_follow_its_probabilities(backend):
    """q(s, a) = sum_wind q(wind) q(s_1 | wind) prod pi(a_t | s_t) q(s_{t+1} | ...), factors left out."""
    options = {} if backend == "enumeration" else {"max_iterations": 60, "tolerance": 1e-6}
    posterior = cai.infer(persistent(3), backend, **options)
    states, actions = every_trajectory(3, 2, 4, 3)
    scores = posterior.log_prob(states, actions)
    assert float(scores.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    drawn, count = posterior.sample(4000, seed=3), 4000
    keys = {row: i for i, row in enumerate(map(tuple, torch.cat([states, actions], 1).tolist()))}
    seen = torch.zeros(len(keys))
    for row in map(tuple, torch.cat(drawn, 1).tolist()):
        seen[keys[row]] += 1
    for took, chance in zip(seen.tolist(), scores.exp().tolist(), strict=True):
        low, high = binom.interval(1 - FAILURE_RATE / len(keys), count, chance)
        assert low <= took <= high


def test_a_trajectory_longer_than_a_chunk_scores_the_same():
    posterior = cai.infer(windy(2), "enumeration")
    states, actions = every_trajectory(3, 2, 3, 2)
    once = posterior.log_prob(states, actions)
    many = posterior.log_prob(states.repeat(60, 1), actions.repeat(60, 1))
    assert len(many) > 4096
    assert torch.equal(many, once.repeat(60))


def small(**options):
    mdp = MDP([[[0.5, 0.5]], [[0.0, 1.0]]], [1.0, 0.0])
    return TrajectoryModel(mdp, **{"reward": [1.0, 0.0], "horizon": 2, **options})


def scored(states, actions, **options):
    return lambda: cai.infer(small(**options), "exact").log_prob(states, actions)


@refuse(
    {
        "few states": (scored([[0, 0]], [[0, 0]]), r"states has shape \[1, 2\].*\[N, 3\]"),
        "many actions": (scored([[0, 0, 0]], [[0, 0, 0]]), r"actions has shape \[1, 3\].*\[N, 2\]"),
        "one row": (scored([0, 0, 0], [0, 0]), r"states has shape \[3\]"),
        "rows": (scored([[0, 0, 0]], [[0, 0], [0, 0]]), r"1 rows of states and 2 of actions"),
        "no rows": (scored(np.zeros((0, 3), int), np.zeros((0, 2), int)), r"0 rows of states"),
        "state": (scored([[0, 0, 2]], [[0, 0]]), r"states\[0, 2\] is 2; expected 0 to 1$"),
        "absorbing": (scored([[0, 0, 3]], [[0, 0]], discount=0.5), r"expected 0 to 2 \(S is the absorbing state\)"),
        "action": (scored([[0, 0, 1]], [[0, -1]]), r"actions\[0, 1\] is -1; expected 0 to 0"),
        "floats": (scored([[0.0, 0.0, 1.0]], [[0, 0]]), TypeError, r"states has dtype.*whole numbers"),
        "endless": (scored([[0, 0]], [[0]], horizon=math.inf, discount=0.5), r"infinite horizon"),
        "no samples": (lambda: cai.infer(small(), "exact").sample(0), r"num_samples is 0"),
        "endless samples": (
            lambda: cai.infer(small(horizon=math.inf, discount=0.5), "exact").sample(1),
            r"infinite horizon",
        ),
    }
)
def test_bad_trajectories_are_refused(build, error, pattern):
    check(build, error, pattern)


def test_log_prob_without_a_posterior_is_refused():
    posterior = cai.infer(small(reward=[-math.inf, 0.0]), "exact", throw=False)
    check(lambda: posterior.log_prob([[0, 0, 0]], [[0, 0]]), ValueError, r"no posterior to score by: impossible")
    parts = {name: getattr(cai.infer(small()), name) for name in ("backend", "target", "status", "horizon", "model")}
    secret = cai.Posterior(**parts)
    check(lambda: secret.log_prob([[0, 0, 0]], [[0, 0]]), NotKnown, r"does not know probabilities of whole.*'exact'")


def test_the_density_of_a_trajectory_differentiates():
    """The score function of the exact posterior has mean zero."""
    reward = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    posterior = SumProduct().run(small(reward=reward))
    scores = posterior.log_prob(*every_trajectory(2, 1, 3, 2))
    possible = torch.isfinite(scores.detach())
    (slope,) = torch.autograd.grad((scores[possible].detach().exp() * scores[possible]).sum(), reward)
    (alone,) = torch.autograd.grad(SumProduct().run(small(reward=reward)).log_prob([[0, 0, 1]], [[0, 0]])[0], reward)
    assert torch.allclose(slope, torch.zeros(2, dtype=torch.float64), atol=1e-12)
    assert float(alone.abs().max()) > 1e-3


def test_another_temperature_is_the_model_made_anew():
    """Such a copy shares what was checked; it answers as one that was made of the parts."""
    problem = random_mdp(4, horizon=5)
    _ = cai.infer(problem, "exact").values  # tables of the rewards are there
    for alpha in (0.3, 7):
        copied = problem.replace(temperature=alpha, name="other")
        made = TrajectoryModel(
            problem.mdp, problem.reward, problem.horizon, alpha, problem.discount, problem.action_prior
        )
        assert (copied.name, copied.temperature, problem.name) == ("other", float(alpha), "random-mdp")
        for backend in ("exact", "variational"):
            torch.testing.assert_close(
                cai.infer(copied, backend).values, cai.infer(made, backend).values, rtol=1e-14, atol=1e-14
            )
    warm = torch.tensor(2.0, requires_grad=True)
    cai.infer(problem.replace(temperature=warm), "exact").log_evidence.backward()
    assert warm.grad is not None
    for wrong in (0.0, -1.0, math.nan, "hot", torch.ones(2)):
        with pytest.raises(ValueError, match="temperature is"):
            problem.replace(temperature=wrong)
