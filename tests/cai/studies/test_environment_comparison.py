"""Learners side by side in an environment: bounds and returns with what they may be off by."""

import json
import math

import pytest
from network_worlds import deterministic_model, small_model, world_of

import cai
from cai.inference import PathConsistency, PolicyGradient, SoftActorCritic, SoftQLearning, Status
from cai.models import environment_model

QUICK = {"hidden_sizes": (16,), "learning_rate": 3e-3, "num_envs": 8}
LEARNERS = [
    SoftQLearning(steps=1600, batch_size=64, updates_per_step=0.25, **QUICK),
    PolicyGradient(steps=3200, buffer_size=160, batch_size=80, **QUICK),
    PathConsistency(steps=1600, batch_size=64, updates_per_step=0.25, **QUICK),
]


def test_learners_of_one_world_agree_within_their_errors(tmp_path):
    """On a deterministic world all three reach the bound that dynamic programming knows."""
    model = deterministic_model()
    world = world_of(model, max_episode_steps=12)
    table = cai.compare(world, [*LEARNERS, "exact"], episodes=30)
    best = float(cai.infer(model, "variational").elbo)
    for row in table.rows[:3]:
        assert row.status is Status.SUCCESS
        assert row.elbo == pytest.approx(best, abs=5 * row.elbo_error + 0.1)
        assert row.luck == row.optimism_gap == 0
        assert row.believed_return == pytest.approx(row.real_return, abs=6 * row.real_return_error + 1e-9)
        assert row.episodes.stochastic_return.samples.shape == (30,)
    frame = table.to_frame()
    for column in ("elbo", "elbo_error", "real_return", "stochastic_return", "deterministic_return_error"):
        assert frame[column][:3].notna().all()
    assert "cvar" not in frame.columns
    assert table.rows[3].status is Status.UNSUPPORTED
    assert "EnvironmentModel" in table.rows[3].detail
    assert math.isnan(frame.stochastic_return.iloc[3])
    plain = json.loads(table.to_json())
    assert (plain["horizon"], plain["temperature"], plain["discount"]) == (None, 0.5, 0.8)
    assert plain["rows"][0]["stochastic_return"] == table.rows[0].episodes.stochastic_return.mean
    assert plain["rows"][3]["elbo_error"] is None
    titles = [ax.get_title() for ax in table.plot().axes]
    assert titles == ["Bound of the policy", "Return of its episodes"]
    again = cai.load(table.save(tmp_path / "table"))
    assert float(again.rows[0].posterior.elbo) == float(table.rows[0].posterior.elbo)
    assert again.to_frame().equals(frame)
    assert again.plot().axes


def test_masks_of_a_world_are_kept_to():
    table = cai.compare(world_of(small_model(shift=-1.0)), LEARNERS[:1], episodes=8)
    assert table.rows[0].episodes.stochastic_return.mean < 0
    assert table.rows[0].detail.startswith("the budget of 1,600 transitions was used")


def test_returns_are_plain_sums_and_the_real_return_is_discounted():
    world = environment_model("CartPole-v1", discount=0.9, temperature=1.0)
    (row,) = cai.compare(world, [SoftActorCritic(steps=150, hidden_sizes=(8,), batch_size=8)], episodes=5).rows
    lengths = row.episodes.episode_length.samples
    assert row.episodes.stochastic_return.mean == float(lengths.mean())
    assert row.real_return == pytest.approx(float(((1 - 0.9**lengths) / 0.1).mean()))
    again = cai.evaluate(row.posterior.policy(), world, episodes=5)
    assert row.episodes.deterministic_return.mean == again.deterministic_return.mean


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match=r"episodes= counts whole episodes of an environment; of a model give num_r"):
        cai.compare(small_model(), ["variational"], episodes=5)
    world = environment_model("CartPole-v1", discount=0.9, temperature=1.0)
    with pytest.raises(ValueError, match="episodes"):
        cai.compare(world, ["soft-q-learning"], episodes=1)
