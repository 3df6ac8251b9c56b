"""What a newcomer writes in the first hour is read as it was meant, or refused with the next step to take."""

import logging
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse
import torch

import cai
from cai.models import MDP, Goal, StepCost, TrajectoryModel, as_reward, bridge, build_reward
from cai.models.demonstrations.trips import read_trips

HALL = MDP([[[0.0, 1.0]], [[0.0, 1.0]]], "hall", terminal="exit", state_names=["hall", "exit"])


class Bus:
    """What can be reset and stepped is an environment."""

    def reset(self):
        return 0, {}

    def step(self, action):
        return 0, 0.0, True, False, {}


def walk():
    state = pyro.sample("s_1", dist.Categorical(torch.tensor([0.5, 0.5])))
    pyro.factor("O_1", -1.0 * (state == pyro.sample("a_1", dist.Categorical(torch.tensor([0.5, 0.5])))))


def model(**changes):
    return TrajectoryModel(HALL, **({"reward": -1.0, "horizon": 3} | changes))


@pytest.mark.parametrize(
    "horizon", [20.0, np.int64(20), np.float32(20), np.array(20), torch.tensor(20), torch.tensor(20.0)]
)
def test_whole_horizons_are_whole(horizon):
    assert model(horizon=horizon).horizon == 20
    assert type(model(horizon=horizon).horizon) is int


@pytest.mark.parametrize("horizon", [20.5, True, np.bool_(True), "20", None, math.nan, -math.inf, torch.tensor([20])])
def test_others_are_not(horizon):
    with pytest.raises(ValueError, match=r"expected a whole number of steps >= 1, or math\.inf"):
        model(horizon=horizon)


def test_a_temperature_in_the_place_of_the_horizon_is_named():
    with pytest.raises(ValueError, match=r"horizon is 0\.5;.*if 0\.5 is the temperature or the discount, name it"):
        TrajectoryModel(HALL, -1.0, 0.5)


def test_a_forgotten_horizon_is_named(caplog):
    assert TrajectoryModel(HALL, -1.0).horizon == 20
    assert "no horizon was given, and the model takes 20 steps; say horizon=20" in caplog.text
    caplog.clear()
    forgotten = TrajectoryModel(HALL, -1.0, horizon=20)
    forgotten.replace(temperature=2.0)
    assert not caplog.records


@pytest.mark.parametrize(
    ("call", "error", "pattern"),
    [
        (lambda: model(gamma=0.9), TypeError, r"TrajectoryModel has no argument 'gamma' \(did you mean 'discount'\?\)"),
        (lambda: model(temprature=2.0), TypeError, r"did you mean 'temperature'"),
        (lambda: model().replace(gamma=0.9), TypeError, r"did you mean 'discount'"),
        (lambda: MDP(P=[[[1.0]]], initial=0), TypeError, r"MDP has no argument 'P' \(did you mean 'transitions'\?\)"),
        (lambda: MDP([[[1.0]]], 0, gamma=0.9), TypeError, r"'gamma': it belongs to TrajectoryModel"),
        (lambda: model(reward={"hall": -1.0}), TypeError, r"type dict is not understood.*mdp\.state_names.*Goal\("),
        (lambda: model(reward=[[1.0], [1.0, 2.0]]), ValueError, r"reward is ragged; give rows of equal length"),
        (lambda: model(reward=[[None], [0.0]]), TypeError, r"reward holds object entries such as None; expected real"),
        (lambda: cai.infer([model(), model()]), TypeError, r"one model, got a list of 2;.*model\.batch\("),
        (lambda: cai.infer((HALL, -1.0)), TypeError, r"process and its reward: TrajectoryModel\(mdp, reward, horizon"),
        (lambda: cai.compare([model()], ["exact"]), TypeError, r"one model, got a list of 1"),
        (lambda: MDP(torch.eye(3).expand(2, 3, 3), 0), ValueError, r"MDP\.from_actions\(transitions, initial\)"),
        (lambda: MDP({0: {0: [(1.0, 0, 0.0, False)]}}, 0), TypeError, r"read by cai\.models\.gymnasium_model\(P, "),
        (lambda: model(reward=[[1.0, 2.0]]), ValueError, r"the action, exchange it with .*swapaxes.*TimeTableReward"),
        (lambda: cai.infer(Bus()), TypeError, r"got Bus; .*count_model\(environment.*environment_model\("),
        (
            lambda: cai.plot_values(cai.infer(walk, "variational")),
            ValueError,
            r"program: draw .*draw_factor_graph",
        ),
        (lambda: read_trips(None, [["a", "b"]]), TypeError, r"a list of list; of routes make a row for each link"),
    ],
)
def test_said(call, error, pattern):
    with pytest.raises(error, match=pattern):
        call()


def test_nested_lists_of_tensors_keep_their_history():
    paid = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    cai.infer(model(reward=[[paid], [torch.tensor(0.0, dtype=torch.float64)]])).log_evidence.backward()
    assert float(paid.grad) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="reward is ragged"):
        model(reward=[[paid], [paid, paid]])


def test_a_negative_cost_asks_whether_a_bonus_is_meant(caplog, tmp_path):
    for make in (lambda: StepCost(-0.1), lambda: build_reward("step-cost:cost=-0.1")):
        caplog.clear()
        assert float(make().cost) == pytest.approx(-0.1)
        assert "StepCost(-0.1) pays 0.1 for every step; is a bonus meant?" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        bonus = model(reward=as_reward(0.1) + Goal("exit", 1.0) - 0.3)
        StepCost(0.1)
        assert float(cai.load(model(reward=0.5).save(tmp_path / "bonus")).reward.cost) == -0.5
    assert not caplog.records
    assert float(bonus.reward_table(0)[0].max()) == pytest.approx(0.8)


def test_a_seed_that_is_drawn_is_recorded():
    answers = [cai.infer(model(), "smc", seed=None, throw=False) for _ in range(2)]
    seeds = [answer.details["seed"] for answer in answers]
    assert seeds[0] != seeds[1]
    again = cai.infer(model(), "smc", seed=seeds[0], throw=False)
    assert float(again.log_evidence) == float(answers[0].log_evidence)
    rows = cai.compare(model(), ["exact", "smc"], seed=None).rows
    assert len({row.posterior.details["seed"] for row in rows}) == 1


def test_dense_of_a_large_process_names_its_bytes():
    large = MDP.from_successors(np.zeros((1_000_000, 1, 1), dtype=int), np.ones((1_000_000, 1, 1)), 0)
    with pytest.raises(ValueError, match=r"dense\(\), a table \[1000000, 1, 1000000\], takes about 8\.0 TB"):
        large.dense()


def test_a_corrupt_policy_file_is_named(tmp_path):
    path = tmp_path / "policy"
    path.write_bytes(b"no policy at all" * 9)
    with pytest.raises(ValueError, match=r"/policy' is damaged"):
        cai.Policy.load(path)


@pytest.mark.parametrize("seed", [np.int64(3), np.array(3), torch.tensor(3)])
def test_whole_numbers_of_any_kind_are_seeds(seed):
    asked = bridge(horizon=3)
    answer = cai.infer(asked, "smc", seed=seed)
    assert torch.equal(answer.log_evidence, cai.infer(asked, "smc", seed=3).log_evidence)
    assert torch.equal(answer.sample(4, seed=seed).states, answer.sample(4, seed=3).states)
    assert cai.evaluate(answer.policy(), asked, seed=seed).std == cai.evaluate(answer.policy(), asked, seed=3).std
    assert cai.compare(asked, ["smc"], seed=seed).rows[0].log_evidence == float(answer.log_evidence)


@pytest.mark.parametrize("name", ["gamma", "discount", "temperature"])
def test_options_of_the_model_are_known_where_a_backend_is_asked(name):
    with pytest.raises(ValueError, match=f"it has no option '{name}'.*it belongs to the model, TrajectoryModel"):
        cai.infer(bridge(horizon=3), "exact", **{name: 0.9})


def test_a_horizon_that_no_float_holds_is_refused():
    with pytest.raises(ValueError, match="horizon is above 10"):
        model(horizon=10**400)


@pytest.mark.parametrize("given", [lambda eye: eye, lambda eye: [eye, eye], lambda eye: (eye,)])
def test_sparse_matrices_in_place_of_a_table_are_answered_with_what_reads_them(given):
    with pytest.raises(TypeError, match=r"sparse.*MDP\.from_actions\(.*MDP\.from_sparse\("):
        MDP(given(scipy.sparse.eye_array(3).tocsr()), [1, 0, 0])
