"""Marginals of every site of a program, against brute force over all its runs."""

import collections
import functools
import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import MOVE, PRIOR, REWARD, START, drawn_first, wind_after_action, windy
from methods import FAILURE_RATE
from scipy.stats import norm

import cai
from cai.inference import Status, Target

GUST = (0.7, 0.3)
BEFORE = ((0.2, 0.8), (0.5, 0.5), (0.9, 0.1))
AFTER = ((0.3, 0.2, 0.5), (0.6, 0.4, 0.0))
DRAG, MATCH = torch.tensor([0.7, 0.5], dtype=torch.float64)


def score(gust, state, before, action, after, following):
    """log p(O_t | ...) of one step, on numbers and on tensors."""
    return REWARD[state, action, following] - DRAG * after * gust + MATCH * (before == action) * (1 + gust)


def full(horizon):
    """A latent that stays, one before and one after each action."""

    def program():
        gust = pyro.sample("gust", dist.Bernoulli(torch.tensor(GUST[1], dtype=torch.float64)))
        state = pyro.sample("s_1", dist.Categorical(START))
        for t in pyro.markov(range(1, horizon + 1)):
            before = pyro.sample(f"before_{t}", dist.Categorical(torch.tensor(BEFORE, dtype=torch.float64)[state]))
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[state]))
            after = pyro.sample(f"after_{t}", dist.Categorical(torch.tensor(AFTER, dtype=torch.float64)[action]))
            following = pyro.sample(f"s_{t + 1}", dist.Categorical(MOVE[state, action]))
            pyro.factor(f"O_{t}", score(gust, state, before, action, after, following))
            state = following

    return program


@functools.cache
def step_weights(gust, here, following):
    """{(before, action, after): its weight in a step between two states}."""
    weights = {}
    for before, action, after in itertools.product(range(2), range(2), range(3)):
        chance = BEFORE[here][before] * float(PRIOR[here, action]) * AFTER[action][after]
        log_weight = float(score(gust, here, before, action, after, following))
        weights[before, action, after] = chance * float(MOVE[here, action, following]) * math.exp(log_weight)
    return weights


@functools.cache
def brute_force(horizon):
    """(log p(O), {site: {value: probability}}) of `full`, over every path of gust and states."""
    found = collections.defaultdict(lambda: collections.defaultdict(float))
    for gust, *states in itertools.product(range(2), *[range(3)] * (horizon + 1)):
        steps = [step_weights(gust, *pair) for pair in itertools.pairwise(states)]
        sums = [sum(weights.values()) for weights in steps]
        weight = GUST[gust] * float(START[states[0]]) * math.prod(sums)
        if weight == 0:
            continue
        found["gust"][gust] += weight
        for t, state in enumerate(states, 1):
            found[f"s_{t}"][state] += weight
        for t, (weights, total) in enumerate(zip(steps, sums, strict=True), 1):
            for values, own in weights.items():
                for kind, value in zip(("before", "a", "after"), values, strict=True):
                    found[f"{kind}_{t}"][value] += weight * own / total
    evidence = sum(found["gust"].values())
    return math.log(evidence), {
        site: {value: weight / evidence for value, weight in weights.items()} for site, weights in found.items()
    }


@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_enumeration_knows_every_site(horizon):
    evidence, sites = brute_force(horizon)
    posterior = cai.infer(full(horizon), "enumeration")
    assert float(posterior.log_evidence) == pytest.approx(evidence, abs=1e-9)
    assert set(posterior.sites) == set(sites)
    for site, chances in sites.items():
        marginal = posterior.marginal(site)
        assert marginal.tolist() == pytest.approx([chances.get(v, 0.0) for v in range(len(marginal))], abs=1e-9)


@pytest.mark.parametrize("horizon", [1, 2])
@pytest.mark.parametrize("backend", ["variational", "optimistic"])
def test_a_guide_is_bounded_by_enumeration_and_says_what_it_leaves_out(horizon, backend, caplog):
    evidence, _ = brute_force(horizon)
    posterior = cai.infer(full(horizon), backend)
    assert float(posterior.elbo) < evidence
    assert posterior.target is (Target.FIXED_DYNAMICS if backend == "variational" else Target.OTHER)
    if backend == "optimistic":
        assert posterior.details["gap"] == pytest.approx(evidence - float(posterior.elbo), abs=1e-9)
        assert set(posterior.details["unseen"]["a_1"]) == {"gust", "before_1"}
        assert "so it is not the exact posterior" in caplog.text


@pytest.mark.parametrize(
    ("program", "horizon"),
    [(windy, 1), (windy, 2), (full, 2), *((kind, T) for kind in (wind_after_action, drawn_first) for T in (1, 2, 5))],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_says_exact_has_the_evidence(program, horizon):
    evidence = float(cai.infer(program(horizon), "enumeration").log_evidence)
    posterior = cai.infer(program(horizon), "optimistic")
    assert posterior.status is Status.SUCCESS
    exact = float(posterior.elbo) == pytest.approx(evidence, abs=2e-6)
    assert exact == (posterior.target is Target.EXACT)
    if program in (wind_after_action, drawn_first):
        assert exact


@pytest.mark.parametrize("backend", ["enumeration", "variational", "optimistic", "smc"])
def test_latents_are_drawn_with_their_trajectories(backend):
    program, count = full(2), 20_000
    posterior = cai.infer(program, backend, **({"num_particles": count} if backend == "smc" else {}))
    (states, actions), further = posterior.sample(count, seed=1, latents=True)
    assert set(further) == {"gust", "before_1", "before_2", "after_1", "after_2"}
    drawn = {**further, **{f"s_{t + 1}": states[:, t] for t in range(3)}, "a_1": actions[:, 0], "a_2": actions[:, 1]}
    for site, values in drawn.items():
        chances = posterior.marginal(site)
        assert float(chances.sum()) == pytest.approx(1.0, abs=1e-9)
        seen = torch.bincount(values.long(), minlength=len(chances)) / count
        width = norm.isf(FAILURE_RATE / 100) * (chances * (1 - chances) / count).sqrt()
        assert ((seen - chances).abs() <= width + 1e-12).all()
    assert torch.equal(posterior.sample(50, seed=3).states, posterior.sample(50, seed=3).states)


def test_marginals_of_smc_meet_the_exact_ones():
    _, sites = brute_force(2)
    posterior = cai.infer(full(2), "smc", num_particles=40_000)
    for site, chances in sites.items():
        found = posterior.marginal(site).tolist()
        assert found == pytest.approx([chances.get(v, 0.0) for v in range(len(found))], abs=0.03)


@pytest.mark.parametrize("backend", ["enumeration", "variational", "optimistic"])
def test_an_answer_of_the_program_stands_without_it(backend, tmp_path):
    posterior = cai.infer(full(2), backend)
    states, actions = posterior.sample(20, seed=1)
    posterior.save(tmp_path / "answer")
    loaded = cai.load(tmp_path / "answer")
    assert loaded.model is None
    assert torch.equal(loaded.marginal("after_2"), posterior.marginal("after_2"))
    assert torch.equal(loaded.log_prob(states, actions), posterior.log_prob(states, actions))
    assert torch.equal(loaded.sample(20, seed=1).states, states)


def test_weights_far_apart_are_answered():
    """The evidence of rewards thousands of nats apart, where products of probabilities underflow."""

    def program():
        state = pyro.sample("s_1", dist.Categorical(START))
        for t in pyro.markov(range(1, 4)):
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[state]))
            following = pyro.sample(f"s_{t + 1}", dist.Categorical(MOVE[state, action]))
            pyro.factor(f"O_{t}", 2000.0 * REWARD[state, action, following])
            state = following

    posterior = cai.infer(program, "enumeration")
    best = cai.infer(program, "optimistic", throw=False)
    assert float(posterior.log_evidence) == pytest.approx(float(best.elbo), rel=1e-6)
    assert float(posterior.state_marginals.sum()) == pytest.approx(4.0, abs=1e-9)


def test_sites_that_are_no_latents_are_refused():
    posterior = cai.infer(full(1), "enumeration")
    with pytest.raises(ValueError, match="'O_1' is observed"):
        posterior.marginal("O_1")
    with pytest.raises(ValueError, match="no latent site 'wind_1'"):
        posterior.marginal("wind_1")
