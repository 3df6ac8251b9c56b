"""What continuous problems look like: the stage of each, and the body that moves on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Ellipse, Polygon, Rectangle
from matplotlib.ticker import MultipleLocator

from cai.models.continuous.world import World
from cai.models.zoo.plane import DubinsDynamics, MultiGoalDynamics
from cai.models.zoo.swing import CartPoleDynamics, PendulumDynamics

__all__ = ["Scene", "scene_of"]

BODY, TRAIL, GOAL = "#0072B2", "#56B4E9", "#E69F00"  # Okabe and Ito's palette
WIDTH = 2.0  # line width of rods


class Body:
    """What moves; made by a scene on its axes, and moved from state to state.

    Attributes:
        artists: what it is drawn with, from below.
    """

    def __init__(self, ax: Axes, color: str, alpha: float) -> None:
        self.style: dict[str, Any] = {"color": color, "alpha": alpha}
        (self.trail,) = ax.plot([], [], color=color, alpha=0.6 * alpha, linewidth=1.2, zorder=3)
        self.artists: list[Artist] = [self.trail]

    def move(self, state: np.ndarray, past: np.ndarray) -> None:
        """Puts the body where a state [n] says; `past` [k, n] are the states so far, this one included."""
        raise NotImplementedError


class Scene:
    """A stage with a place for every state. This one is the plane of two coordinates, for problems without another.

    Args:
        model: the problem.

    Attributes:
        axes: which two coordinates a map of the problem shows; equal where there is one.
        labels: of these.
        equal: whether both axes have one scale.
        shows_map: whether the stage itself has these coordinates.
    """

    axes: tuple[int, int] = (0, 1)
    labels: tuple[str, str] = ("first coordinate of the state", "second coordinate of the state")
    equal = False
    shows_map = True

    def __init__(self, model: World) -> None:
        self.model = model
        if model.name == "double-integrator":
            self.labels = ("position", "velocity")

    def limits(self) -> tuple[float, float, float, float]:
        """(left, right, bottom, top) of the stage: around where the start is, and the origin."""
        with torch.no_grad():
            start = self.model.start_distribution()
            middle, spread = start.mean.numpy(), np.sqrt(start.variance.numpy())
        reach = np.maximum(np.abs(middle) + 3 * spread, 1.0) * 1.25
        x, y = (float(reach[i]) for i in self.axes)
        return -x, x, -y, y

    def stage(self, ax: Axes) -> None:
        """Draws what does not move."""
        left, right, bottom, top = self.limits()
        ax.set_xlim(left, right)
        ax.set_ylim(bottom, top)
        ax.set_xlabel(self.labels[0])
        ax.set_ylabel(self.labels[1])
        if self.equal:
            ax.set_aspect("equal")
        if type(self) is Scene:
            for line in (ax.axhline, ax.axvline):
                line(0, color="0.6", linewidth=0.8, linestyle=":", zorder=1)

    def widen(self, ax: Axes, states: np.ndarray) -> None:
        """Makes room on the stage for states [..., n]."""
        i, j = self.axes
        for axis, values in (("x", states[..., i]), ("y", states[..., j])):
            low, high = getattr(ax, f"get_{axis}lim")()
            room = 0.05 * float(np.ptp(values))
            limits = min(low, float(values.min()) - room), max(high, float(values.max()) + room)
            getattr(ax, f"set_{axis}lim")(*limits)

    def start(self, ax: Axes) -> None:
        """Marks p(s_1) on a map: its mean, and an ellipse of two standard deviations."""
        with torch.no_grad():
            given = self.model.start_distribution()
            mean, variance = given.mean.numpy(), given.variance.numpy()
            whole = getattr(given, "covariance_matrix", None)
            covariance = np.diag(variance) if whole is None else whole.numpy()
        i, j = self.axes
        part = covariance[np.ix_([i, j], [i, j])]
        values, vectors = np.linalg.eigh(part)
        if values.max() > 0:
            angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
            size = 4 * np.sqrt(values.clip(0))
            ellipse = Ellipse((mean[i], mean[j]), size[1], size[0], angle=angle)
            ellipse.set(fill=False, edgecolor=BODY, linewidth=1.8, zorder=4, label="start, two standard deviations")
            ax.add_patch(ellipse)
        ax.plot([mean[i]], [mean[j]], "o", color=BODY, markersize=8, mec="white", zorder=5, label="start")

    def body(self, ax: Axes, color: str = BODY, alpha: float = 1.0) -> Body:
        """A body on the stage, not yet placed."""
        return _Point(ax, color, alpha, self.axes)


class _Point(Body):
    def __init__(self, ax: Axes, color: str, alpha: float, axes: tuple[int, int]) -> None:
        super().__init__(ax, color, alpha)
        self.axes = axes
        (self.point,) = ax.plot([], [], "o", markersize=9, mec="white", zorder=5, **self.style)
        self.artists.append(self.point)

    def move(self, state: np.ndarray, past: np.ndarray) -> None:
        i, j = self.axes
        self.trail.set_data(past[:, i], past[:, j])
        self.point.set_data([state[i]], [state[j]])


class _Line(Scene):
    """One coordinate: the state to the right."""

    axes = (0, 0)
    labels = ("state", "")

    def stage(self, ax: Axes) -> None:
        left, right, _, _ = self.limits()
        ax.set_xlim(left, right)
        ax.set_ylim(-1, 1)
        ax.set_yticks([])
        ax.axhline(0, color="0.6", zorder=1)
        ax.set_xlabel(self.labels[0])

    def widen(self, ax: Axes, states: np.ndarray) -> None:
        left, right = ax.get_xlim()
        ax.set_xlim(min(left, float(states.min())), max(right, float(states.max())))

    def start(self, ax: Axes) -> None:
        with torch.no_grad():
            given = self.model.start_distribution()
            mean, spread = float(given.mean), float(given.variance) ** 0.5
        ax.axvline(mean, color=BODY, label="start")
        if spread:
            ax.axvspan(mean - 2 * spread, mean + 2 * spread, color=BODY, alpha=0.2, label="two standard deviations")

    def body(self, ax: Axes, color: str = BODY, alpha: float = 1.0) -> Body:
        return _Bead(ax, color, alpha)


class _Bead(Body):
    def __init__(self, ax: Axes, color: str, alpha: float) -> None:
        super().__init__(ax, color, alpha)
        (self.point,) = ax.plot([], [], "o", markersize=12, mec="white", zorder=5, **self.style)
        self.artists.append(self.point)

    def move(self, state: np.ndarray, past: np.ndarray) -> None:
        self.point.set_data([state[0]], [0.0])


class _Pendulum(Scene):
    axes = (0, 1)
    labels = ("angle (radians; 0 is up)", "angular velocity (radians per second)")
    shows_map = False

    def limits(self) -> tuple[float, float, float, float]:
        return -np.pi - 0.6, np.pi + 0.6, -8.0, 8.0

    def stage(self, ax: Axes) -> None:
        ax.set_xlim(-1.35, 1.35)
        ax.set_ylim(-1.35, 1.35)
        ax.set_aspect("equal")
        ax.set_axis_off()
        ax.add_patch(Circle((0, 0), 1, fill=False, linestyle=":", edgecolor="0.7", zorder=1))
        ax.plot([0, 0], [1, 1.12], color=GOAL, linewidth=4, zorder=1)
        ax.text(0, 1.16, "goal: up", ha="center", va="bottom", color="0.3", fontsize=10)
        ax.plot([0], [0], "o", color="0.2", markersize=6, zorder=6)

    def widen(self, ax: Axes, states: np.ndarray) -> None:
        """There is room for every angle."""

    def body(self, ax: Axes, color: str = BODY, alpha: float = 1.0) -> Body:
        return _Rod(ax, color, alpha)


class _Rod(Body):
    def __init__(self, ax: Axes, color: str, alpha: float) -> None:
        super().__init__(ax, color, alpha)
        (self.rod,) = ax.plot([], [], linewidth=3 * WIDTH, solid_capstyle="round", zorder=4, **self.style)
        (self.bob,) = ax.plot([], [], "o", markersize=16, zorder=5, **self.style)
        self.artists += [self.rod, self.bob]

    def move(self, state: np.ndarray, past: np.ndarray) -> None:
        x, y = np.sin(state[0]), np.cos(state[0])
        self.rod.set_data([0, x], [0, y])
        self.bob.set_data([x], [y])
        self.trail.set_data(np.sin(past[:, 0]), np.cos(past[:, 0]))


class _CartPole(Scene):
    axes = (1, 3)
    labels = ("angle (radians; 0 is up)", "angular velocity (radians per second)")
    shows_map = False

    def limits(self) -> tuple[float, float, float, float]:
        return -np.pi - 0.6, np.pi + 0.6, -10.0, 10.0

    def stage(self, ax: Axes) -> None:
        ax.set_xlim(-2.4, 2.4)
        ax.set_ylim(-1.4, 1.5)
        ax.set_aspect("equal")
        ax.axhline(-0.13, color="0.6", linewidth=2, zorder=1)
        ax.axvline(0, ymin=0.0, ymax=0.44, color=GOAL, linestyle="--", zorder=1)
        ax.text(0.05, -1.3, "goal: the pole up, the cart at 0", color="0.3", fontsize=10)
        ax.set_yticks([])
        ax.set_xlabel("position of the cart (metres)")
        for side in ("left", "right", "top"):
            ax.spines[side].set_visible(False)

    def widen(self, ax: Axes, states: np.ndarray) -> None:
        left, right = ax.get_xlim()
        reach = max(right, float(np.abs(states[..., 0]).max()) + 0.6)
        ax.set_xlim(min(left, -reach), reach)

    def body(self, ax: Axes, color: str = BODY, alpha: float = 1.0) -> Body:
        dynamics: Any = self.model.dynamics  # type: ignore[attr-defined]
        return _Cart(ax, color, alpha, 2 * dynamics.half_length)


class _Cart(Body):
    def __init__(self, ax: Axes, color: str, alpha: float, length: float) -> None:
        super().__init__(ax, color, alpha)
        self.length = length
        self.cart = Rectangle((0, 0), 0.5, 0.25, facecolor="0.35", alpha=alpha, zorder=3)
        ax.add_patch(self.cart)
        (self.pole,) = ax.plot([], [], linewidth=3 * WIDTH, solid_capstyle="round", zorder=4, **self.style)
        self.artists += [self.cart, self.pole]

    def move(self, state: np.ndarray, past: np.ndarray) -> None:
        x, angle = state[0], state[1]
        self.cart.set_xy((x - 0.25, -0.125))
        self.pole.set_data([x, x + self.length * np.sin(angle)], [0, self.length * np.cos(angle)])
        tip = past[:, 0] + self.length * np.sin(past[:, 1])
        self.trail.set_data(tip, self.length * np.cos(past[:, 1]))


class _Dubins(Scene):
    labels = ("x", "y")
    equal = True

    def limits(self) -> tuple[float, float, float, float]:
        return -0.6, 5.8, -2.4, 2.0

    def stage(self, ax: Axes) -> None:
        super().stage(ax)
        reward: Any = self.model.reward  # type: ignore[attr-defined]
        for k, (x, y, radius) in enumerate(reward.discs):
            disc = Circle((x, y), radius, facecolor="none", edgecolor="0.6", hatch="//", linewidth=1.5, zorder=2)
            disc.set_label("discs to stay out of" if not k else "_")
            ax.add_patch(disc)
        ax.plot(*reward.goal, "*", color=GOAL, markersize=18, mec="0.2", zorder=4, label="goal")

    def body(self, ax: Axes, color: str = BODY, alpha: float = 1.0) -> Body:
        return _Car(ax, color, alpha)


class _Car(Body):
    def __init__(self, ax: Axes, color: str, alpha: float) -> None:
        super().__init__(ax, color, alpha)
        self.car = Polygon(np.zeros((3, 2)), closed=True, facecolor=color, edgecolor="white", alpha=alpha, zorder=5)
        ax.add_patch(self.car)
        self.artists.append(self.car)

    def move(self, state: np.ndarray, past: np.ndarray) -> None:
        x, y, heading = state
        forward = np.array([np.cos(heading), np.sin(heading)])
        across = np.array([-forward[1], forward[0]])
        place = np.array([x, y])
        self.car.set_xy(np.stack([place + 0.2 * forward, place - 0.12 * forward + 0.1 * across,
                                  place - 0.12 * forward - 0.1 * across]))  # fmt: skip
        self.trail.set_data(past[:, 0], past[:, 1])


class _MultiGoal(Scene):
    labels = ("x", "y")
    equal = True

    def limits(self) -> tuple[float, float, float, float]:
        width = self.model.dynamics.half_width  # type: ignore[attr-defined]
        return -width, width, -width, width

    def stage(self, ax: Axes) -> None:
        super().stage(ax)
        end: Any = self.model.terminal  # type: ignore[attr-defined]
        for k, (x, y) in enumerate(end.goals):
            ring = Circle((x, y), end.radius, facecolor=GOAL, edgecolor="0.2", zorder=2)
            ring.set_label("goals, which end the episode" if not k else "_")
            ax.add_patch(ring)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MultipleLocator(5))


def scene_of(model: World) -> Scene:
    """The scene of a problem of the zoo, and the plane of its first two coordinates for any other."""
    kinds: dict[type, type[Scene]] = {
        PendulumDynamics: _Pendulum,
        CartPoleDynamics: _CartPole,
        DubinsDynamics: _Dubins,
        MultiGoalDynamics: _MultiGoal,
    }
    found = kinds.get(type(getattr(model, "dynamics", None)))
    if found is None:
        found = Scene if model.state_dim > 1 else _Line
    return found(model)
