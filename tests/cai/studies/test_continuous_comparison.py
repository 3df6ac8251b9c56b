"""Comparisons, evaluations and sweeps of continuous models: the table and the columns of every other model."""

import itertools
import json
import math

import pytest
import torch
from gaussian_models import integrator

import cai
from cai.evaluation.continuous import ContinuousOutcome
from cai.inference import Status
from cai.models import ContinuousModel, Flat, LinearNormal, QuadraticReward, double_integrator


def columns(model, backends):
    return list(cai.compare(model, backends, num_rollouts=20).to_frame().columns)


def test_one_table_whose_accounts_add_up(tmp_path):
    table = cai.compare(double_integrator(), ["exact", "variational", "risk:eta=-0.05", "smc"], num_rollouts=60)
    rows = {row.backend: row for row in table.rows}
    assert all(row.status.ok for row in table.rows)
    for name in ("exact", "variational", "risk(eta=-0.05)"):
        row = rows[name]
        spent = row.believed_return / row.posterior.temperature - float(row.posterior.policy_divergence) - row.luck
        assert spent == pytest.approx(row.elbo, rel=1e-10)
        assert row.believed_return - row.real_return == pytest.approx(row.optimism_gap, abs=1e-9)
        assert row.real_return_error is None  # exact
        outcome = row.outcome
        assert abs(outcome.returns.mean() - outcome.expected_return) < 5 * outcome.standard_error
    assert rows["exact"].elbo == rows["exact"].log_evidence
    assert rows["variational"].optimism_gap == 0
    assert rows["exact"].optimism_gap > 0 > rows["risk(eta=-0.05)"].optimism_gap
    smc = rows["smc"]
    assert abs(smc.log_evidence - rows["exact"].log_evidence) < 5 * smc.log_evidence_error
    assert smc.real_return_error > 0
    plain = json.loads(table.to_json())
    assert plain["model"] == "double-integrator"
    assert plain["horizon"] == 25
    assert plain["rows"][1]["log_evidence"] is None
    from cai.models import bridge

    known = [name for name in columns(bridge(), ["exact"]) if not name.startswith(("visits_", "ends_in_"))]
    assert [name for name in table.to_frame().columns if name != "real_return_error"] == known
    table.save(tmp_path / "table")
    assert cai.load(tmp_path / "table").rows[0].believed_return == rows["exact"].believed_return
    assert table.plot().axes


def test_a_flat_model_has_the_same_columns_a_note_and_no_particles():
    proper, flat = integrator(), integrator(action_prior=Flat())
    table = cai.compare(flat, ["exact", "variational", "smc"])
    assert list(table.to_frame().columns) == columns(proper, ["exact"])
    assert "relative to da" in table.rows[0].detail
    assert "relative to da" in table.rows[1].detail
    assert table.rows[2].status is Status.UNSUPPORTED
    assert "Flat()" in table.rows[2].detail


def test_a_breakdown_is_a_row():
    (row,) = cai.compare(integrator(), ["risk:eta=-500"]).rows
    assert row.status is Status.INFINITE
    assert "eta = -0.458" in row.detail
    assert row.real_return is None


def test_batches_have_a_row_for_each_backend_and_member(tmp_path):
    """The rows of the members compared alone, over one batch axis and over two, and after a trip through a file."""
    noise = 0.01 * torch.eye(2).double()[None, None] * torch.tensor([1.0, 2.0])[:, None, None, None]
    starts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]).double()[:, None]
    for batch in (integrator(noise=noise), integrator(noise=noise, initial=(starts, torch.eye(2).double()))):
        table = cai.compare(batch, ["exact", "boltzmann"], num_rollouts=20)
        assert [row.backend for row in table.rows] == ["exact"] * len(table.rows[::2]) + ["boltzmann"] * len(
            table.rows[::2]
        )
        for number, place in enumerate(itertools.product(*map(range, batch.batch_shape))):
            alone = cai.compare(batch.member(*place), ["exact", "boltzmann"], num_rollouts=20)
            found = table.member(number)
            assert found["exact"].real_return == alone["exact"].real_return
            assert found.to_dict()["rows"] != []
            columns = ["status", "elbo", "believed_return", "luck", "real_return"]
            assert found.to_frame()[columns].equals(alone.to_frame()[columns])
        assert list(table.to_frame().index.names) == ["backend", "member"]
        plain = json.loads(table.to_json())
        assert len(plain["members"]) == number + 1
        assert plain["members"][0] == {"horizon": 10, "temperature": 2.0}
    table.save(tmp_path / "table")
    assert cai.load(tmp_path / "table").member(4)["exact"].elbo == table.member(4)["exact"].elbo
    with pytest.raises(ValueError, match=r"comparison\.member\(0\)"):
        table["exact"]
    with pytest.raises(ValueError, match="plot one of its members"):
        table.plot()
    with pytest.raises(IndexError, match="members 0 to 5"):
        table.member(6)
    with pytest.raises(TypeError, match="for a batch use"):
        cai.sweep(batch, "risk", eta=[0.0, 0.1])
    with pytest.raises(ValueError, match=r"model\.member\(0, 0\)|model\.member\(0\)"):
        cai.evaluate(cai.infer(batch, "exact").policy(), batch)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"discount": 0.8},
        {"horizon": math.inf, "discount": 0.8, "reward": QuadraticReward(Q=torch.eye(2), R=torch.eye(1))},
        {"horizon": math.inf, "criterion": "average", "reward": QuadraticReward(Q=torch.eye(2), R=torch.eye(1))},
    ],
)
def test_exact_returns_are_those_of_rollouts(changes):
    model = integrator(**changes)
    answer = cai.infer(model, "variational")
    found = cai.evaluate(answer.policy(), model, num_rollouts=4000 if model.is_finite else 300, seed=1)
    assert isinstance(found, ContinuousOutcome)
    assert found.is_exact
    assert found.expected_return_error == 0
    assert found.expected_return == pytest.approx(float(answer.believed_return), rel=1e-9)
    assert found.entropy == pytest.approx(float(answer.policy_entropy), rel=1e-9)
    assert abs(float(found.returns.mean()) - found.expected_return) < 5 * found.standard_error
    other = cai.extract_policy(
        cai.infer(integrator(temperature=0.3), "exact" if "horizon" not in changes else "variational")
    )
    if model.is_finite:
        moved = cai.evaluate(other, model, num_rollouts=4000, seed=2)
        assert abs(float(moved.returns.mean()) - moved.expected_return) < 5 * moved.standard_error
    greedy = cai.evaluate(answer.policy("greedy"), model, num_rollouts=20)
    assert greedy.entropy == -math.inf
    assert greedy.expected_return > found.expected_return


def test_policies_that_do_not_fit_are_refused():
    policy = cai.infer(integrator(horizon=3), "variational").policy()
    with pytest.raises(ValueError, match="knows 3 steps, the model has 10"):
        cai.evaluate(policy, integrator())
    with pytest.raises(TypeError, match="does not act"):
        cai.evaluate(object(), integrator())
    with pytest.raises(ValueError, match="no regions"):
        cai.evaluate(policy, integrator(horizon=3), regions={"a": [0]})
    other = cai.infer(double_integrator(horizon=3), "variational").policy()
    wide = integrator(horizon=3, B=[[0.0, 1.0], [0.1, 0.0]], action_prior=LinearNormal(L=torch.eye(2)), reward=None)
    with pytest.raises(ValueError, match="the model has 2 and 2"):
        cai.evaluate(other, wide)


def test_a_nonlinear_model_is_evaluated_by_rollouts():
    model = ContinuousModel(
        torch.ones(1).double(),
        lambda s, a, t: s + 0.1 * torch.sin(s) + a,
        lambda s, a, t: -(s[..., 0] ** 2),
        4,
        LinearNormal(L=[[0.1]]),
    )
    policy = cai.infer(
        integrator(A=[[1.0]], B=[[1.0]], noise=None, initial=([1.0], [[0.0]]), horizon=4, reward=None), "variational"
    )
    found = cai.evaluate(policy.policy(), model, seed=0)
    assert not found.is_exact
    assert found.expected_return_error == found.standard_error > 0
    assert found.entropy is None
    assert torch.equal(found.returns, cai.evaluate(policy.policy(), model, seed=0).returns)


def test_sweeps_move_the_dial():
    moved = cai.sweep(integrator(), "risk", eta=[-0.3, -0.1, 0.0, 1.0], num_rollouts=20)
    believed = moved.to_frame()["believed_return"]
    assert believed.is_monotonic_increasing
    assert moved.plot().axes


def test_policies_run_in_environments_with_vectors():
    import gymnasium

    class Rail(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(-10, 10, (2,))
        action_space = gymnasium.spaces.Box(-10, 10, (1,))

        def reset(self, *, seed=None, options=None):
            self.place = torch.tensor([1.0, 0.0])
            return self.place.numpy(), {}

        def step(self, action):
            force = float(action[0])
            self.place = torch.tensor([self.place[0] + 0.1 * self.place[1], self.place[1] + 0.1 * force])
            return self.place.numpy(), -float(self.place[0] ** 2), False, False, {}

    policy = cai.infer(integrator(), "variational").policy()
    total, steps, terminated = policy.run(Rail(), seed=0)
    assert steps == 10
    assert total < 0
    assert not terminated
    with pytest.raises(ValueError, match="needs a Box"):
        policy.run(gymnasium.make("CartPole-v1"))
