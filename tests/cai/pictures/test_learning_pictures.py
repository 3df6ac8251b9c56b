"""Pictures of learners show the numbers of their answers, and policies of networks become exact tables."""

import math

import numpy as np
import pytest
import torch
from network_worlds import small_model, world_of

import cai
from cai.inference import NotKnown
from cai.models import environment_model
from cai.pictures import plot_action_values, plot_learning
from cai.policies import tabulated
from cai.studies.learner_plots import plot_occupancy

QUICK = {"hidden_sizes": (8,), "batch_size": 16, "updates_per_step": 0.1}


def tables(backend, seeds, steps=12_000):
    return [cai.infer(small_model(), backend, steps=steps, seed=seed) for seed in range(seeds)]


def test_a_bound_is_drawn_beside_the_exact_one():
    best = cai.infer(small_model(), "variational")
    runs = {"Q": tables("soft-q-learning", 3), "pi": tables("policy-gradient", 1, steps=8000)}
    (ax,) = plot_learning(runs, what="elbo", exact=best).axes
    thin = [line for line in ax.lines if line.get_linewidth() == 1.0]
    wide = [line for line in ax.lines if line.get_linewidth() == 2.4]
    assert (len(thin), len(wide)) == (4, 2)
    for line, answer in zip(thin, [*runs["Q"], *runs["pi"]], strict=True):
        history = answer.details["history"]
        assert line.get_xdata().tolist() == history.step.values.tolist()
        assert line.get_ydata().tolist() == history.elbo.values.tolist()
    mean = np.mean([answer.details["history"].elbo.values for answer in runs["Q"]], axis=0)
    np.testing.assert_allclose(wide[0].get_ydata(), mean)
    assert ax.lines[-1].get_ydata()[0] == float(best.elbo)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Q, 3 seeds", "pi", "variational (exact)"]
    assert ax.get_ylabel() == "elbo (nats)"


def test_curves_of_different_lengths_are_averaged_where_all_are_known():
    short, long = tables("soft-q-learning", 1, steps=8000)[0], tables("soft-q-learning", 1)[0]
    (ax,) = plot_learning([short, long], what="entropy").axes
    wide = next(line for line in ax.lines if line.get_linewidth() == 2.4)
    assert wide.get_xdata().max() == short.details["steps"] < long.details["steps"]
    values = [answer.details["history"].entropy.values[0] for answer in (short, long)]
    assert wide.get_ydata()[0] == pytest.approx(np.mean(values))


def test_what_has_no_history_is_refused():
    best = cai.infer(small_model(), "variational")
    with pytest.raises(ValueError, match="'variational' was not learned from samples"):
        plot_learning(best)
    with pytest.raises(ValueError, match="has no 'bound'; it has episode_return"):
        plot_learning(tables("soft-q-learning", 1), what="bound")
    with pytest.raises(ValueError, match="'actor_loss' is not known at any step"):
        plot_learning(tables("soft-q-learning", 1), what="actor_loss")
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_learning([])


@pytest.mark.parametrize("horizon", [math.inf, 3])
def test_a_policy_of_networks_is_an_exact_table(horizon):
    model = small_model(horizon=horizon)
    answer = cai.infer(world_of(model), "soft-q-learning", steps=160, **QUICK)
    table = tabulated(answer.policy(), model)
    assert table.stationary == (horizon == math.inf)
    assert float(table.action_probs[:, 1, 1].abs().max()) == 0  # not available
    torch.testing.assert_close(table.action_probs[:, 2], model.action_prior[None, 2].expand(len(table.action_probs), 3))
    seen = np.eye(3)[[0]] if horizon == math.inf else np.array([[1.0, 0, 0, 1 / 3]])
    logs = answer.policy().log_prob([1], seen)
    at = 0 if horizon == math.inf else 1
    assert float(table.action_probs[at, 0, 1]) == pytest.approx(float(logs.exp()[0]), abs=1e-6)
    exact = cai.evaluate(table, model).expected_return
    played = cai.evaluate(answer.policy(), world_of(model), episodes=200).discounted_return
    assert exact == pytest.approx(played.mean, abs=5 * played.standard_error)
    with pytest.raises(TypeError, match="expected the policy of a learner with networks"):
        tabulated(table, model)


def test_visits_are_drawn_on_the_map():
    model = cai.models.bridge(horizon=5)
    answer = cai.infer(world_of(model), "soft-q-learning", steps=120, **QUICK)
    figure = plot_occupancy(answer.policy(), model)
    (picture,) = figure.axes[0].images
    assert float(picture.get_array().sum()) == pytest.approx(6.0)  # somewhere at each of T + 1 times
    assert figure.axes[0].get_title() == "Expected visits of soft-q-learning on bridge"
    exact = cai.extract_policy(cai.infer(model, "variational"))
    assert plot_occupancy(exact, model).axes[0].get_title() == "Expected visits of variational on bridge"


def test_values_of_two_actions_and_draws_on_top():
    model = cai.models.multi_goal()
    answer = cai.infer(model, "soft-actor-critic", steps=110, **QUICK)
    figure = plot_action_values(answer, [[-2.5, 0.0], [0.0, 0.0]], draws=40, num_paths=7, resolution=9, t=2)
    paths, first, second = figure.axes[:3]
    assert len([line for line in paths.lines if line.get_alpha() == 0.6]) == 7
    assert first.get_title() == "state 1: (-2.5, 0)"
    points = second.lines[0].get_xydata()
    assert points.shape == (40, 2)
    assert np.abs(points).max() <= 1
    draws = torch.Generator().manual_seed(0)
    answer.policy().act(np.tile([-2.5, 0.0], (40, 1)), 2, generator=draws)
    want = answer.policy().act(np.tile([0.0, 0.0], (40, 1)), 2, generator=draws)
    np.testing.assert_allclose(points, want.numpy())
    with pytest.raises(ValueError, match="there are 1 axes for 3 panels"):
        plot_action_values(answer, [[-2.5, 0.0], [0.0, 0.0]], axes=[first])
    gradient = cai.infer(model, "policy-gradient", steps=64, buffer_size=32, batch_size=16, hidden_sizes=(8,))
    with pytest.raises(NotKnown, match="what actions are worth"):
        plot_action_values(gradient, [[0.0, 0.0]])
    pole = environment_model("CartPole-v1", discount=0.9, temperature=1.0)
    with pytest.raises(ValueError, match="two continuous actions"):
        plot_action_values(cai.infer(pole, "soft-q-learning", steps=110, **QUICK), [[0.0] * 4])
