"""Pictures and films of continuous problems: what stands in them is what the problem says."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from cai.models import (
    ContinuousModel,
    LinearGaussianModel,
    LinearNormal,
    QuadraticReward,
    available_models,
    bridge,
    build_model,
    cart_pole,
    double_integrator,
    dubins,
    multi_goal,
    pendulum,
)
from cai.pictures import animate_policy, plot_model, plot_world, save_animation
from cai.pictures.scenes import scene_of

NAMES = [name for name, entry in available_models().items() if entry.continuous]


class Push:
    """The same action in every state, with some noise."""

    def __init__(self, action, noise=0.1):
        self.action, self.noise = torch.as_tensor(action, dtype=torch.float64), noise

    def act(self, states, t, *, generator=None, deterministic=False):
        shape = (*states.shape[:-1], len(self.action))
        noise = 0.0 if deterministic else self.noise * torch.randn(shape, generator=generator, dtype=torch.float64)
        return self.action.expand(shape) + noise


def words(figure):
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text) if text.get_visible())


@pytest.mark.parametrize("name", NAMES)
def test_every_continuous_entry_has_a_picture(name):
    figure = plot_model(build_model(name))
    figure.draw_without_rendering()
    said = words(figure)
    assert f"{name}: states in" in said
    assert "reward of a step with action 0 (reward units)" in said
    assert "start" in said
    for ax in figure.axes:  # nothing that is to be read lies outside
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
            box = text.get_window_extent()
            assert not text.get_text() or figure.bbox.padded(1).contains(box.x0, box.y0), text
            assert not text.get_text() or figure.bbox.padded(1).contains(box.x1, box.y1), text


def test_a_map_may_be_drawn_on_axes_that_are_given_and_takes_no_kind():
    _, ax = plt.subplots()
    assert plot_world(pendulum(), ax=ax) is ax.figure
    with pytest.raises(ValueError, match="the pendulum model is continuous; leave it out"):
        plot_model(pendulum(), kind="map")


def test_models_that_are_not_of_the_zoo_have_pictures():
    line = LinearGaussianModel(
        [[[[0.9]]], [[[0.8]]]], [[1.0]], initial=([1.0], [[0.3]]), horizon=3, reward=QuadraticReward(Q=[[1.0]]),
        action_prior=LinearNormal(L=[[1.0]]), name="line",
    )  # fmt: skip
    assert "line: states in" in words(plot_model(line))
    wide = ContinuousModel(
        torch.zeros(3), lambda s, a, t: s + a, lambda s, a, t: -s.square().sum(-1), 2, LinearNormal(L=torch.eye(3))
    )
    assert "first coordinate" in words(plot_model(wide))
    films = [animate_policy(Push([0.1]), line.member(1)), animate_policy(Push([0.1] * 3), wide, num_runs=2)]
    assert [film.num_frames for film in films] == [4, 3]
    for film in films:
        film.pictures(20)


def test_bodies_stand_where_the_state_says():
    _, ax = plt.subplots()
    rod = scene_of(pendulum()).body(ax)
    rod.move(np.array([np.pi / 2, 0.0]), np.array([[0.0, 0.0], [np.pi / 2, 0.0]]))
    assert rod.bob.get_xydata()[0] == pytest.approx([1.0, 0.0], abs=1e-12)
    assert rod.trail.get_xydata()[0] == pytest.approx([0.0, 1.0], abs=1e-12)
    cart = scene_of(cart_pole()).body(ax)
    cart.move(np.array([0.5, np.pi, 0.0, 0.0]), np.zeros((1, 4)))
    assert cart.cart.get_xy() == pytest.approx((0.25, -0.125))
    assert cart.pole.get_xydata()[1] == pytest.approx([0.5, -1.0], abs=1e-12)
    car = scene_of(dubins()).body(ax)
    car.move(np.array([1.0, 2.0, np.pi / 2]), np.array([[1.0, 2.0, 0.0]]))
    assert car.car.get_xy()[0] == pytest.approx([1.0, 2.2])
    point = scene_of(multi_goal()).body(ax)
    point.move(np.array([3.0, 4.0]), np.array([[0.0, 0.0], [3.0, 4.0]]))
    assert point.point.get_xydata()[0].tolist() == [3.0, 4.0]


@pytest.mark.parametrize("build", [pendulum, cart_pole, dubins, multi_goal, double_integrator])
def test_a_film_has_a_frame_for_each_state_and_they_differ(build, tmp_path):
    model = build(horizon=3)
    before = torch.get_rng_state()
    film = animate_policy(Push([3.0] * model.action_dim), model, num_runs=2, seed=4)
    path = save_animation(film, tmp_path / "film.gif", dots_per_inch=30)
    assert torch.equal(before, torch.get_rng_state())
    with Image.open(path) as picture:
        assert picture.n_frames == 4
        assert picture.info["duration"] == 50
        frames = []
        for k in range(4):
            picture.seek(k)
            frames.append(np.asarray(picture.convert("RGB")).astype(int))
    assert all((np.abs(one - two) > 60).any() for one, two in itertools.pairwise(frames))
    assert not plt.fignum_exists(film.figure.number)


def test_a_quick_film_shows_what_matplotlib_draws():
    film = animate_policy(Push([3.0]), pendulum(horizon=3), seed=1)
    quick = np.asarray(film.pictures(50)[2]).astype(int)
    film.show(2)
    film.figure.canvas.draw()
    whole = np.asarray(film.figure.canvas.buffer_rgba())[..., :3].astype(int)
    assert np.abs(quick - whole).mean() < 0.5


def test_a_page_holds_the_frames(tmp_path):
    film = animate_policy(Push([0.0]), double_integrator(horizon=2))
    assert film._repr_html_().count("data:image/png") == 3
    text = save_animation(film, tmp_path / "film.html", dots_per_inch=30).read_text()
    assert text.count("data:image/png") == 3


def test_long_runs_leave_steps_out():
    film = animate_policy(Push([0.0]), double_integrator(horizon=1000))
    assert film.num_frames == 335
    film.show(334)
    assert "after 1000 of 1000" in words(film.figure)


def test_what_cannot_be_filmed_says_so(tmp_path):
    still = animate_policy(Push([0.0]), double_integrator(horizon=1))
    for wrong, match in {
        lambda: animate_policy(Push([0.0]), bridge()): "expected a LinearGaussianModel or a ContinuousModel",
        lambda: animate_policy("left", pendulum()): "a str does not act",
        lambda: animate_policy(Push([0.0]), pendulum(), num_runs=0): "show 1 to 50",
        lambda: animate_policy(Push([0.0]), pendulum(), frames_per_second=0): "above 0",
        lambda: animate_policy(Push([0.0]), double_integrator(horizon=float("inf"))): "give horizon=N",
        lambda: save_animation(still, tmp_path / "film.mp4"): "ends in '.mp4'; films are written as .gif or .html",
    }.items():
        with pytest.raises((TypeError, ValueError), match=match):
            wrong()
    assert save_animation(still, tmp_path / "missing" / "film.gif").stat().st_size
