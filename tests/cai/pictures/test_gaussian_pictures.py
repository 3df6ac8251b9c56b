"""Pictures of Gaussian answers: what stands on their axes is what the answers say."""

import math

import numpy as np
import pytest
import torch
from gaussian_models import integrator

import cai
from cai.models import Flat, bridge, build_model
from cai.pictures import plot_bands, plot_gains, plot_luck, plot_messages, plot_value_contours, plot_values


def test_bands_are_two_standard_deviations_of_the_marginals():
    answer = cai.infer(integrator(), "exact")
    figure = plot_bands(answer)
    first, _, third = (ax for ax in figure.axes if ax.get_visible())
    lines = {line.get_label(): line.get_ydata() for line in first.lines}
    assert np.allclose(lines["believed"][4], answer.marginal("s_5").mean[0])
    band = first.collections[1].get_paths()[0].vertices
    mean, covariance = answer.marginal("s_1")
    top = band[np.isclose(band[:, 0], 1)][:, 1].max()
    assert top == pytest.approx(float(mean[0] + 2 * covariance[0, 0].sqrt()))
    assert lines["in the true world"][0] == 1.0
    assert third.get_ylabel() == "action"
    fixed = plot_bands(cai.infer(integrator(), "variational"), actions=False)
    lines = {line.get_label(): line.get_ydata() for line in fixed.axes[0].lines}
    assert np.allclose(lines["believed"], lines["in the true world"])


def test_luck_over_time_adds_up_to_the_luck():
    answer = cai.infer(integrator(), "exact")
    ax = plot_luck(answer).axes[0]
    heights = [bar.get_height() for bar in ax.patches]
    assert len(heights) == 11  # the start and ten steps
    assert sum(heights) == pytest.approx(float(answer.luck))
    start, true = answer.marginal("s_1"), integrator().start
    gap = start.mean - true.mean
    inverse = torch.linalg.inv(true.covariance)
    ratio = inverse @ start.covariance
    divergence = (torch.trace(ratio) - 2 - torch.logdet(ratio) + gap @ inverse @ gap) / 2  # of two Gaussians
    assert heights[0] == pytest.approx(float(divergence))
    held = plot_luck(cai.infer(integrator(), "variational")).axes[0]
    assert not any(bar.get_height() for bar in held.patches)
    with pytest.raises(ValueError, match="horizon=N"):
        plot_luck(cai.infer(integrator(horizon=math.inf, discount=0.9, reward=None), "variational"))


def test_contours_side_by_side_show_the_same_part_of_the_plane():
    answer = cai.infer(build_model("double-integrator"), "exact")
    ax = plot_value_contours(answer, window=((-1.0, 2.5), (-0.5, 0.75))).axes[0]
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1.0, 2.5), (-0.5, 0.75))
    for wrong in ((0, 1), ((1, 0), (0, 1)), ((0, 1), (0, float("inf")))):
        with pytest.raises(ValueError, match="the ends of both axes"):
            plot_value_contours(answer, window=wrong)


def test_contours_show_the_value_and_the_path():
    answer = cai.infer(integrator(), "exact")
    ax = plot_value_contours(answer, t=2, coordinates=(1, 0)).axes[0]
    path = ax.lines[-1]
    assert np.allclose(path.get_xdata()[3], answer.marginal("s_4").mean[1])
    assert "t = 3" in ax.get_title()
    with pytest.raises(ValueError, match="coordinates are"):
        plot_value_contours(answer, coordinates=(0, 2))


def test_gains_of_a_flat_prior_do_not_move():
    figure = plot_gains(integrator(), [0.1, 1.0, 10.0])
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    flat, proper = lines["K[0, 1], prior Flat()"], lines["K[0, 1], prior as the model has it"]
    assert np.ptp(flat) < 1e-10
    assert np.ptp(proper) > 0.1
    alone = plot_gains(integrator(action_prior=Flat()), [1.0])
    assert len(alone.axes[1].lines) == 1


def test_other_answers_are_refused():
    with pytest.raises(TypeError, match="no Gaussian one"):
        plot_bands(cai.infer(bridge(), "exact"))
    with pytest.raises(ValueError, match="infinite"):
        plot_bands(cai.infer(integrator(), "risk", eta=-500, throw=False))
    endless = integrator(horizon=math.inf, discount=0.9, reward=None)
    with pytest.raises(ValueError, match="horizon=N"):
        plot_bands(cai.infer(endless, "variational"))
    batch = integrator(noise=0.01 * torch.eye(2).double().expand(2, 1, 2, 2))
    with pytest.raises(ValueError, match=r"model\.member\(0\)"):
        plot_bands(cai.infer(batch, "exact"))
    with pytest.raises(TypeError, match="one LinearGaussianModel"):
        plot_gains(batch)
    with pytest.raises(ValueError, match="plot_bands or plot_value_contours"):
        plot_messages(cai.infer(integrator(), "exact"))
    assert plot_values(cai.infer(integrator(), "exact"), t=1).axes[0].get_title().startswith("Soft value at t = 2")
