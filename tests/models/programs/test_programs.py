"""Pyro programs written by hand with the site names, which are no TrajectoryModel, against brute force over paths."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from example_programs import (
    MOVE,
    PRIOR,
    REWARD,
    START,
    WIND,
    WINDY,
    all_paths,
    drawn_at_the_end,
    drawn_first,
    persistent,
    wind_after_action,
    windy,
)
from methods import FAILURE_RATE
from scipy.stats import binom

import cai
from cai.inference import Enumeration, Optimistic, Status, StructuredVariational


def step_table(kind):
    """p(s' | s, a) and its logarithmic score: lists of (probability, s', log factor) by wind for each (s, a)."""
    table = {}
    for state, action in itertools.product(range(3), range(2)):
        rows = []
        for wind in range(2) if kind is windy else (None,):
            chances = MOVE[state, action] if wind is None else WIND[wind] * WINDY[wind, state, action]
            shift = 3.0 if kind is windy else 0.0
            rows += [
                (float(chances[n]), n, float(REWARD[state, action, n]) - shift) for n in range(3) if chances[n] > 0
            ]
        table[state, action] = rows
    return table


def recursion(kind, horizon, optimistic):
    """Evidence (or the best bound with fixed dynamics) and policy rows, by recursion over the definition."""
    table = step_table(kind)
    values, rows = [0.0] * 3, {}
    for t in reversed(range(horizon)):
        last_without_state = kind is drawn_first and t == horizon - 1
        q_values = {}
        for (state, action), outcomes in table.items():
            if last_without_state:
                q_values[state, action] = float(REWARD[state, action, 0])
            elif optimistic:
                q_values[state, action] = math.log(math.fsum(p * math.exp(r + values[n]) for p, n, r in outcomes))
            else:
                q_values[state, action] = math.fsum(p * (r + values[n]) for p, n, r in outcomes)
        values = [math.log(sum(float(PRIOR[s, a]) * math.exp(q_values[s, a]) for a in range(2))) for s in range(3)]
        for s in range(3):
            rows[t, s] = [float(PRIOR[s, a]) * math.exp(q_values[s, a] - values[s]) for a in range(2)]
    start = [(float(p), v) for p, v in zip(START, values, strict=True) if p > 0]
    if optimistic:
        return math.log(sum(p * math.exp(v) for p, v in start)), rows
    return sum(p * v for p, v in start), rows


MARKOV = (drawn_at_the_end, drawn_first, windy)


@pytest.mark.parametrize("horizon", [2, 5, 10])
@pytest.mark.parametrize("kind", MARKOV, ids=lambda kind: kind.__name__)
def test_enumeration_of_programs(kind, horizon):
    posterior = cai.infer(kind(horizon), "enumeration")
    want, rows = recursion(kind, horizon, optimistic=True)
    assert float(posterior.log_evidence) == pytest.approx(want, abs=1e-9)
    assert posterior.horizon == horizon
    assert posterior.state_marginals.shape[0] == horizon + (kind is not drawn_first)
    for (t, state), row in rows.items():
        if posterior.state_marginals[t, state] > 0:
            assert posterior.action_probs[t, state].tolist() == pytest.approx(row, abs=1e-9)


@pytest.mark.parametrize("horizon", [2, 5, 10, 30])
@pytest.mark.parametrize("kind", MARKOV, ids=lambda kind: kind.__name__)
def test_variational_inference_of_programs(kind, horizon):
    posterior = cai.infer(kind(horizon), "variational")
    want, rows = recursion(kind, horizon, optimistic=False)
    assert float(posterior.elbo) == pytest.approx(want, abs=1e-9)
    assert float(posterior.elbo) <= recursion(kind, horizon, optimistic=True)[0]
    assert float(posterior.believed_return - posterior.policy_divergence) == pytest.approx(want, abs=1e-9)
    assert float(posterior.luck) == pytest.approx(0.0, abs=1e-9)
    for (t, state), row in rows.items():
        if posterior.state_marginals[t, state] > 0:
            assert posterior.action_probs[t, state].tolist() == pytest.approx(row, abs=1e-7)


@pytest.mark.parametrize("horizon", [2, 5, 10, 30])
@pytest.mark.parametrize("kind", [drawn_at_the_end, drawn_first, wind_after_action], ids=lambda kind: kind.__name__)
def test_the_optimistic_guide_closes_on_the_evidence_of_programs(kind, horizon):
    posterior = cai.infer(kind(horizon), "optimistic")
    same_as = windy if kind is wind_after_action else kind
    assert float(posterior.elbo) == pytest.approx(recursion(same_as, horizon, optimistic=True)[0], abs=1e-9)


def test_a_wind_before_the_action_keeps_the_optimistic_bound_below_the_evidence():
    """The posterior's action depends on the wind, which the policy does not see."""
    evidence, fixed = (recursion(windy, 5, optimistic=way)[0] for way in (True, False))
    assert fixed < float(cai.infer(windy(5), "optimistic").elbo) < evidence


def test_a_program_whose_state_is_not_all_it_remembers():
    horizon = 3
    paths = list(all_paths(horizon))
    weights = [prior * math.exp(score) for *_, prior, score in paths]
    total = math.fsum(weights)
    posterior = cai.infer(persistent(horizon), "enumeration")
    assert float(posterior.log_evidence) == pytest.approx(math.log(total), abs=1e-9)
    for t, state in itertools.product(range(horizon), range(3)):
        seen = [(p, w) for p, w in zip(paths, weights, strict=True) if p[1][t] == state]
        mass = math.fsum(w for _, w in seen)
        if mass > 0:
            row = [math.fsum(w for p, w in seen if p[2][t] == a) / mass for a in range(2)]
            assert posterior.action_probs[t, state].tolist() == pytest.approx(row, abs=1e-9)
    # The best memoryless policy: no single change of a table's logits may raise its bound, computed by hand.
    fitted = cai.infer(persistent(horizon), "variational")

    def bound(table):
        value = 0.0
        for _, states, actions, prior, score in paths:
            chance, gain = prior, score
            for t in range(horizon):
                old, new = float(PRIOR[states[t], actions[t]]), float(table[t, states[t], actions[t]])
                chance *= new / old
                gain -= math.log(new / old)
            value += chance * gain
        return value

    assert float(fitted.elbo) == pytest.approx(bound(fitted.action_probs), abs=1e-9)
    assert float(fitted.elbo) < float(posterior.log_evidence)
    for t, state in itertools.product(range(horizon), range(3)):
        for nudge in (0.05, -0.05):
            logits = fitted.action_probs.log().clone()
            logits[t, state, 0] += nudge
            assert bound(logits.softmax(-1)) <= float(fitted.elbo) + 1e-12
    freed = cai.infer(persistent(horizon), "optimistic", throw=False)
    assert float(fitted.elbo) < float(freed.elbo) < float(posterior.log_evidence)


def trap(horizon):
    """State 1 is forbidden; action 1 may fall into it, action 0 never does."""

    def program():
        move = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.0, 1.0]]], dtype=torch.float64)
        score = torch.tensor(
            [[[0.0, -math.inf], [5.0, -math.inf]], [[0.0, -math.inf], [0.0, 0.0]]], dtype=torch.float64
        )
        state = pyro.sample("s_1", dist.Categorical(torch.tensor([1.0, 0.0], dtype=torch.float64)))
        for t in pyro.markov(range(1, horizon + 1)):
            action = pyro.sample(f"a_{t}", dist.Categorical(logits=torch.zeros(2, dtype=torch.float64)))
            following = pyro.sample(f"s_{t + 1}", dist.Categorical(logits=move[state, action].log()))
            pyro.factor(f"O_{t}", score[state, action, following])
            state = following

    return program


def test_minus_infinity_in_a_program():
    cautious = cai.infer(trap(4), "variational")
    assert float(cautious.elbo) == pytest.approx(-4 * math.log(2), abs=1e-9)
    assert cautious.action_probs[:, 0, 1].max() == 0
    bold = cai.infer(trap(4), "optimistic")
    assert float(bold.elbo) == pytest.approx(4 * math.log((1 + math.exp(5) / 2) / 2), abs=1e-9)
    assert float(cai.infer(trap(4), "enumeration").log_evidence) == pytest.approx(float(bold.elbo), abs=1e-9)


def doomed(probability):
    def program():
        state = pyro.sample("s_1", dist.Categorical(torch.ones(2, dtype=torch.float64)))
        action = pyro.sample("a_1", dist.Categorical(torch.ones(2, dtype=torch.float64)))
        row = torch.tensor([1 - probability, probability], dtype=torch.float64)
        following = pyro.sample("s_2", dist.Categorical(logits=row.log()))
        pyro.factor("O_1", torch.where(following == 1, -math.inf, 0.0) + 0.0 * (state + action))

    return program


def test_statuses_of_programs():
    assert cai.infer(doomed(0.5), "variational", throw=False).status is Status.UNAVOIDABLE
    assert float(cai.infer(doomed(0.5), "optimistic").elbo) == pytest.approx(math.log(0.5))
    for backend in (StructuredVariational(), Optimistic(), Enumeration()):
        posterior = cai.infer(doomed(1.0), backend, throw=False)
        assert posterior.status is Status.IMPOSSIBLE, backend
        assert float(posterior.elbo) == -math.inf


@pytest.mark.parametrize("kind", [*MARKOV, persistent], ids=lambda kind: kind.__name__)
def test_samples_of_programs_follow_the_posterior(kind):
    posterior, count = cai.infer(kind(3), "enumeration"), 4000
    states, actions = posterior.sample(count, seed=3)
    assert states.shape == (count, 3 + (kind is not drawn_first))
    assert actions.shape == (count, 3)
    again = posterior.sample(count, seed=3)
    assert torch.equal(states, again[0])
    assert torch.equal(actions, again[1])
    tests = 2 * 3 * 3 * 2
    for t, state in itertools.product(range(3), range(3)):
        here = states[:, t] == state
        chance = float(posterior.state_marginals[t, state].clamp(0, 1))
        low, high = binom.interval(1 - FAILURE_RATE / tests, count, chance)
        assert low <= int(here.sum()) <= high
        if int(here.sum()):
            took = int((actions[:, t][here] == 1).sum())
            low, high = binom.interval(
                1 - FAILURE_RATE / tests, int(here.sum()), float(posterior.action_probs[t, state, 1])
            )
            assert low <= took <= high


def test_a_program_without_markov_is_told_what_to_do():
    def program():
        state = pyro.sample("s_1", dist.Categorical(START))
        for t in range(1, 41):
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[state]))
            state = pyro.sample(f"s_{t + 1}", dist.Categorical(MOVE[state, action]))
            pyro.factor(f"O_{t}", state.double())

    with pytest.raises(ValueError, match=r"pyro\.markov"):
        cai.infer(program, "enumeration")


@pytest.mark.parametrize("name", ["enumeration", "variational", "optimistic"])
def test_parameters_of_a_program_are_read_and_left_alone(name):
    """A program may hold parameters, of its own making or trained before; inference neither moves nor forgets them."""

    def program():
        bonus = pyro.param("bonus", torch.tensor(0.0, dtype=torch.float64))
        state = pyro.sample("s_1", dist.Categorical(START))
        action = pyro.sample("a_1", dist.Categorical(PRIOR[state]))
        pyro.factor("O_1", bonus + 0.0 * action)

    assert float(cai.infer(program, name).elbo.detach()) == pytest.approx(0.0, abs=1e-9)
    assert "bonus" not in pyro.get_param_store()
    pyro.param("bonus", torch.tensor(1.5, dtype=torch.float64))
    assert float(cai.infer(program, name).elbo.detach()) == pytest.approx(1.5, abs=1e-9)
    assert pyro.param("bonus").item() == 1.5
    assert list(pyro.get_param_store().keys()) == ["bonus"]
    pyro.clear_param_store()


def test_the_evidence_of_a_program_differentiates_to_its_parameters():
    bonus = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def program():
        state = pyro.sample("s_1", dist.Categorical(START))
        action = pyro.sample("a_1", dist.Categorical(PRIOR[state]))
        pyro.factor("O_1", bonus * action)

    posterior = cai.infer(program, "enumeration")
    (slope,) = torch.autograd.grad(posterior.log_evidence, bonus)
    taken = float((posterior.state_marginals[0] * posterior.action_probs[0, :, 1]).sum())
    assert float(slope) == pytest.approx(taken, abs=1e-9)


def test_a_transition_that_looks_further_back_is_fitted_to_the_end():
    """A freed site whose own probabilities depend on what its table does not see: the criterion can still be met."""

    def program():
        state = pyro.sample("s_1", dist.Categorical(START))
        before = torch.tensor(0)
        for t in pyro.markov(range(1, 6), history=2):
            action = pyro.sample(f"a_{t}", dist.Categorical(PRIOR[state]))
            following = pyro.sample(f"s_{t + 1}", dist.Categorical(MOVE[state, before]))
            pyro.factor(f"O_{t}", REWARD[state, action, following])
            state, before = following, action

    evidence = float(cai.infer(program, "enumeration").log_evidence)
    fixed = float(cai.infer(program, "variational").elbo)
    freed = cai.infer(program, "optimistic", tolerance=1e-6)
    assert freed.status is Status.SUCCESS
    longer = cai.infer(program, "optimistic", max_iterations=500, throw=False)
    assert float(freed.elbo) == pytest.approx(float(longer.elbo), abs=1e-4)
    assert fixed < float(freed.elbo) < evidence
