"""Temperatures and rewards at the ends of what floats hold, horizons of 1: accounts that are finite, or a status."""

import logging
import math
import random
import warnings

import methods
import pytest
import torch

import cai
from cai.inference import Status
from cai.inference.tabular.magnitudes import batch_is_in_range, is_in_range
from cai.models import bridge, lottery

SIZES = (5e-324, 1e-308, 1e-300, 1e-155, 1e-100, 1e-20, 1e-9, 1e9, 1e20, 1e100, 1e155, 1e300, 1e308, 1.7e308)
NUMBERS = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")
STOPPED = ("em", "reward-weighted")  # which may answer that their policy meets -inf: see their docstrings


def extreme(method, draw):
    """A random problem of a method whose temperature, rewards or both are of an extreme size."""
    keywords = {"forbidden": False} | ({"horizon": 1} if draw.random() < 0.4 else {})
    model = method.problem(draw.randrange(10**6), **keywords).model
    tables = torch.cat([model.reward_table(t).reshape(-1) for t in model.reward_times])
    largest = float(tables.abs().max()) or 1.0
    size = draw.choice(SIZES) if draw.random() < 0.6 else 1.0
    temperature = draw.choice(SIZES) if draw.random() < 0.6 else 1.0
    if draw.random() < 0.2:  # far from 1, but near each other
        temperature = min(max(size * draw.choice((0.5, 2.0)), 5e-324), 1.7e308)
    return model.replace(reward=model.reward * min(size / largest, 1e308), temperature=temperature)


@pytest.mark.parametrize("method", [method for method in methods.ALL + methods.SAMPLED if method.cost == 1], ids=str)
@pytest.mark.parametrize(("number", "least"), [(24, 3), pytest.param(40, 4, marks=pytest.mark.campaign)])
def test_accounts_are_finite_or_there_is_a_status(method, number, least, caplog):
    caplog.set_level(logging.CRITICAL)
    draw, answered, refused = random.Random(str(method)), 0, 0
    for _ in range(number):
        try:
            model = extreme(method, draw)
        except ValueError:  # rewards of inf are refused when they are given
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            posterior = cai.infer(model, method.backend, throw=False)
        if not posterior.status.ok:
            refused += posterior.status is Status.OUT_OF_RANGE
            continue
        answered += 1
        for name in NUMBERS:
            value = getattr(posterior, name)
            assert value is None or math.isfinite(float(value)), (model, name, value)
        for name in ("values", "q_values", "action_probs", "initial", "state_marginals"):
            table = getattr(posterior, name)
            assert table is None or not bool(torch.isnan(table).any()), (model, name)
        outcome = cai.evaluate(posterior.policy(), model, num_rollouts=10)
        assert math.isfinite(outcome.expected_return), model
        assert math.isfinite(outcome.std), model
    assert answered >= least
    assert refused >= least


@pytest.mark.parametrize("backend", ["exact", "variational", "risk", "max-product", "value-iteration", "smc"])
@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e300, 1.7e308])
def test_a_temperature_that_no_float_can_divide_by_has_a_status(backend, temperature):
    posterior = cai.infer(bridge(temperature=temperature), backend, throw=False)
    assert posterior.status is Status.OUT_OF_RANGE
    assert posterior.log_evidence is None
    with pytest.raises(cai.InferenceError, match=r"out of range: .*\(returns are of the size of"):
        cai.infer(bridge(temperature=temperature), backend)
    row = cai.compare(bridge(temperature=temperature), [backend], num_rollouts=10).rows[0]
    assert row.status is Status.OUT_OF_RANGE
    assert row.to_dict()["believed_return"] is None
    assert "measure rewards in other units" in row.to_dict()["detail"]


@pytest.mark.parametrize("backend", ["exact", "variational", "optimistic", "risk:eta=1", "risk:eta=-1"])
def test_soft_values_that_vanish_beside_1_are_right_or_not_called_so(backend):
    """At temperature 1e20 the value of a certain loss of 3 came back as 0, with success."""
    assert cai.infer(lottery(temperature=1e25), backend, throw=False).status is Status.OUT_OF_RANGE
    for temperature in (1e6, 1e12, 1e20):
        posterior = cai.infer(lottery(temperature=temperature), backend)
        assert float(posterior.values[0, 0]) == pytest.approx(-3.0, rel=10 / temperature + 1e-12)


def test_a_batch_has_the_status_of_each_member():
    batch = lottery().batch(temperature=[1.0, 1e-300, 2.0])
    answers = cai.infer(batch, "exact", throw=False)
    assert [status.ok for status in answers.statuses] == [True, False, True]
    assert answers[1].status is Status.OUT_OF_RANGE
    assert float(answers[2].log_evidence) == pytest.approx(float(cai.infer(batch[2]).log_evidence))


def test_extreme_sizes_that_go_together_are_answered():
    """Rewards and temperature in other units change nothing but the units."""
    plain = cai.infer(lottery(), "exact")
    for unit in (1e-100, 1e100):
        model = lottery(temperature=unit)
        scaled = cai.infer(model.replace(reward=model.reward * unit), "exact")
        assert float(scaled.log_evidence) == pytest.approx(float(plain.log_evidence), rel=1e-12)
        assert float(scaled.believed_return) == pytest.approx(unit * float(plain.believed_return), rel=1e-12)


def test_a_batch_is_in_range_if_every_member_is_and_makes_none_for_tables(monkeypatch):
    draw, seen = random.Random(5), []
    mostly_one = (1.0,) * 2 * len(SIZES) + SIZES
    for seed in range(200):
        method = draw.choice([method for method in methods.ALL if method.backend.name == "exact"])
        base = method.problem(seed, forbidden=False).model
        if not base.is_finite:
            continue
        states, actions, number = base.mdp.num_states, base.mdp.num_actions, draw.randrange(1, 4)
        options = {"temperature": [draw.choice(mostly_one) for _ in range(number)]}
        if plain := draw.random() < 0.7:
            sizes = torch.tensor([draw.choice(mostly_one) for _ in range(number)], dtype=torch.float64)
            noise = torch.rand(number, states, actions, generator=torch.Generator().manual_seed(seed)).double()
            options["reward"] = -sizes[:, None, None] * noise * base.nonterminal[:, None]
        if draw.random() < 0.5 and not base.reward.reads_time:
            options["horizon"] = [draw.randrange(1, 6) for _ in range(number)]
        batch = base.batch(**options)
        with monkeypatch.context() as patch:
            if plain:
                patch.setattr(type(batch), "_member", lambda *_: pytest.fail("a member is made"))
            got = batch_is_in_range(batch, soft=True)
        assert got == all(is_in_range(member, soft=True) for member in batch), batch
        seen.append(got)
    assert 20 < sum(seen) < len(seen) - 20
