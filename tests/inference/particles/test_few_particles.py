"""An answer that rests on a few particles is no success, and says how little it is worth."""

import json
import math
import statistics

import numpy as np
import pytest
import torch
from oracle import random_problem

import cai
from cai.inference import Status
from cai.models import MDP, TrajectoryModel, bridge, gridworld


@pytest.mark.parametrize("backend", ["smc:lookahead=none", "importance"])
def test_no_success_whose_evidence_is_far_off(backend):
    model = bridge(slip=0.2, horizon=20)
    exact = float(cai.infer(model, "exact").log_evidence)
    for seed in range(12):
        answer = cai.infer(model, backend, seed=seed, throw=False)
        assert answer.status is Status.FEW_PARTICLES or abs(float(answer.log_evidence) - exact) < 1
    with pytest.raises(cai.InferenceError, match=r"few particles.*of 1000 particles"):
        cai.infer(model, backend)


def test_the_default_looks_ahead_where_there_are_tables():
    model = bridge(slip=0.2, horizon=20)
    exact = float(cai.infer(model, "exact").log_evidence)
    for seed in range(8):
        answer = cai.infer(model, "smc", seed=seed)
        assert abs(float(answer.log_evidence) - exact) < 5 * answer.details["log_evidence_error"] < 1


def test_no_success_whose_first_steps_are_those_of_two_particles():
    found = []
    for seed in (0, 3, 7):
        draw = np.random.default_rng(seed)
        moves, rewards = draw.dirichlet(np.full(6, 0.3), size=(6, 3)), 4 * draw.normal(size=(6, 3, 6))
        answer = cai.infer(TrajectoryModel(MDP(moves, 0), rewards, 15), "smc", seed=seed, throw=False)
        found.append(answer.status.ok)
        assert not answer.status.ok or answer.details["effective_sample_size"] > 2.5
    assert any(found)


def test_weights_that_are_all_alike_can_all_be_wrong():
    """No particle comes near the goal, so their weights say nothing; log p(O), which the tables tell, does."""
    model = gridworld(horizon=15)
    exact = float(cai.infer(model, "exact").log_evidence)
    for seed in range(6):
        answer = cai.infer(model, "smc", lookahead=None, seed=seed, throw=False)
        assert answer.status.ok == (abs(float(answer.log_evidence) - exact) < 0.5) or not answer.status.ok


def test_the_error_is_the_spread_over_seeds():
    for number, backend in ((1, "smc"), (2, "smc"), (1, "importance"), (3, "smc")):
        model = random_problem(number, forbidden=False).model.replace(horizon=10)
        exact = float(cai.infer(model, "exact").log_evidence)
        answers = [cai.infer(model, backend, seed=seed, throw=False) for seed in range(40)]
        spread = math.sqrt(statistics.fmean((float(answer.log_evidence) - exact) ** 2 for answer in answers))
        said = statistics.median(answer.details["log_evidence_error"] for answer in answers)
        assert said / 1.7 < spread < 1.7 * said  # 40 draws know it to a ninth


def test_columns():
    table = cai.compare(bridge(horizon=10), ["exact", "smc", "importance"], num_rollouts=20)
    frame = table.to_frame()
    for row, line in zip(table.rows, json.loads(table.to_json())["rows"], strict=True):
        for name in ("effective_sample_size", "log_evidence_error"):
            value = getattr(row, name)
            assert line[name] == value
            assert (value is None) == (row.backend == "exact")
            assert value is None or (value > 0 and frame.loc[row.backend, name] == value)


def test_programs_too():
    import pyro
    from pyro.distributions import Categorical, Normal

    def program():
        pyro.sample("s_1", Normal(0.0, 1.0))
        pyro.sample("a_1", Categorical(torch.tensor([0.5, 0.5])))
        s = pyro.sample("s_2", Normal(0.0, 1.0))
        pyro.factor("O_1", -100 * (s - 4.0) ** 2)

    answer = cai.infer(program, "importance", throw=False)
    assert answer.status is Status.FEW_PARTICLES
    assert answer.details["effective_sample_size"] < 10
    assert float(answer.evidence_error) > 0.3
