"""A policy at work in a continuous problem, as a film: for notebooks, and as a file."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.animation import FuncAnimation
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from cai.models.common.files import write_atomically
from cai.models.common.random_draws import seeded
from cai.models.continuous.simulate import Rollout
from cai.models.continuous.world import World
from cai.pictures.scenes import scene_of

__all__ = ["Film", "animate_policy", "save_animation"]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito's palette: one for each of the first runs
MOST_RUNS = 50
MOST_FRAMES = 400
FORMATS = (".gif", ".html")


class Film(FuncAnimation):
    """An animation that can be written quickly: what does not move is drawn once.

    Args:
        figure: all of it.
        show: draws the frame of a number, and returns the artists that move.
        frames: how many there are.
        speed: frames per second.
    """

    def __init__(self, figure: Figure, show: Callable[[int], list[Artist]], frames: int, speed: float) -> None:
        self.figure, self.show, self.num_frames, self.speed = figure, show, frames, speed
        super().__init__(figure, show, frames=frames, interval=1000 / speed, blit=False)
        self._draw_was_started = True  # no warning for a film that is written and never shown

    def _repr_html_(self) -> str:
        """The frames with buttons, for notebooks."""
        with plt.rc_context({"animation.embed_limit": 200.0}):
            return str(self.to_jshtml(fps=round(self.speed)))

    def pictures(self, dots_per_inch: float) -> list[Image.Image]:
        """Every frame."""
        self.figure.set_dpi(dots_per_inch)
        canvas = FigureCanvasAgg(self.figure)
        moving = self.show(0)
        for artist in moving:
            artist.set_animated(True)
        canvas.draw()
        still = canvas.copy_from_bbox(self.figure.bbox)
        found = []
        for frame in range(self.num_frames):
            canvas.restore_region(still)
            for artist in self.show(frame):
                artist.draw(canvas.get_renderer())
            found.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
        for artist in moving:
            artist.set_animated(False)
        return found


def animate_policy(
    policy: Any,
    model: World,
    *,
    num_runs: int = 1,
    seed: int = 0,
    deterministic: bool = False,
    frames_per_second: float = 20.0,
    title: str | None = None,
) -> Film:
    """Films a policy in the true world: bodies on the stage, beside them actions and returns so far.

    A notebook shows it where it is the last word of a cell, and `save_animation` writes a file. One frame is one step;
    longer horizons than 400 leave steps out.

    Args:
        policy: with `act(states, t, generator=..., deterministic=...)`, as `cai.extract_policy` makes it.
        model: the problem, of finite horizon, no batch.
        num_runs: how many runs are seen at once, up to 50.
        seed: of everything that is drawn; the global random state is left alone.
        deterministic: whether the policy is to take its mean action.
        frames_per_second: of the film.
        title: above the stage; the name of the model unless given.

    Raises:
        TypeError, ValueError: if this is no such policy or model, the numbers are none, or a run leaves the finite
            numbers.
    """
    if not isinstance(model, World):
        raise TypeError(f"expected a LinearGaussianModel or a ContinuousModel, got a {type(model).__name__}")
    if model.batch_shape:
        raise ValueError(f"the model is a batch of shape {list(model.batch_shape)}; film one: model.member(...)")
    if not hasattr(policy, "act"):
        raise TypeError(f"a {type(policy).__name__} does not act; use cai.extract_policy(posterior)")
    if not 1 <= num_runs <= MOST_RUNS:
        raise ValueError(f"num_runs is {num_runs}; show 1 to {MOST_RUNS}")
    if not frames_per_second > 0:
        raise ValueError(f"frames_per_second is {frames_per_second}; give a number above 0")
    runs = model.rollout(policy, num_runs, seeded(seed), deterministic=deterministic)
    figure, axes = plt.subplots(
        2, 2, figsize=(10.5, 5.4), layout="constrained", gridspec_kw={"width_ratios": (1.5, 1.0)}
    )
    grid = axes[0, 0].get_gridspec()
    for ax in axes[:, 0]:
        ax.remove()
    stage = figure.add_subplot(grid[:, 0])
    scene = scene_of(model)
    scene.stage(stage)
    scene.widen(stage, runs.states.numpy())
    alpha = 1.0 if num_runs <= 3 else 0.6
    bodies = [scene.body(stage, COLORS[i % len(COLORS)], alpha) for i in range(num_runs)]
    clock = stage.set_title("")
    heading = title or model.name
    marks = _draw_beside(axes[0, 1], axes[1, 1], runs, alpha)
    states, alive = runs.states.numpy(), runs.alive.numpy()
    stride = -(-model.steps // MOST_FRAMES)
    times = [*range(0, model.steps, stride), model.steps]

    moving: list[Artist] = [clock, *marks, *(part for body in bodies for part in body.artists)]

    def show(frame: int) -> list[Artist]:
        t = times[frame]
        for i, body in enumerate(bodies):
            body.move(states[i, t], states[i, : t + 1])
        ended = int((~alive[:, t]).sum())
        over = f", {ended} of {num_runs} ended" if ended and num_runs > 1 else ", ended" if ended else ""
        clock.set_text(f"{heading}: after {t} of {model.steps} steps{over}")
        for mark in marks:
            mark.set_xdata([t, t])
        return moving

    show(0)
    figure.draw_without_rendering()  # once; to lay the panels out anew for every frame would take most of the time
    figure.set_layout_engine("none")
    return Film(figure, show, len(times), frames_per_second)


def _draw_beside(upper: Axes, lower: Axes, runs: Rollout, alpha: float) -> list[Any]:
    """Actions and returns so far over time; returns the lines that mark the time."""
    actions, returns = runs.actions.numpy(), runs.rewards.cumsum(1).numpy()
    number, steps, size = actions.shape
    for i in range(number):
        color = COLORS[i % len(COLORS)]
        for k in range(size):
            style: Any = {"color": color, "alpha": alpha, "linestyle": ("-", "--", ":")[k % 3]}
            label = f"coordinate {k + 1}" if size > 1 and not i else None
            upper.step(np.arange(steps), actions[i, :, k], where="post", linewidth=1.2, label=label, **style)
        lower.plot(np.arange(steps + 1), np.concatenate([[0.0], returns[i]]), color=color, alpha=alpha)
    upper.set_ylabel("action")
    if size > 1:
        upper.legend(loc="best", fontsize=8)
    lower.set_ylabel("return so far\n(reward units)")
    lower.set_xlabel("steps")
    for ax in (upper, lower):
        ax.set_xlim(0, steps)
    return [ax.axvline(0, color="0.35", linewidth=1.2) for ax in (upper, lower)]


def save_animation(animation: Film, path: str | Path, *, dots_per_inch: float = 80.0) -> Path:
    """Writes a film to a file, a GIF or a page of HTML with its frames and buttons, and closes its figure.

    Args:
        animation: from `animate_policy`.
        path: ends in .gif (written in a second or two) or .html (which takes longer).
        dots_per_inch: of the frames.

    Returns:
        The path.

    Raises:
        ValueError: if the path ends otherwise.
        StorageError: if it cannot be written, or its folder not made.
    """
    target = Path(path)
    if target.suffix not in FORMATS:
        raise ValueError(f"{str(path)!r} ends in {target.suffix or 'nothing'!r}; films are written as .gif or .html")
    if target.suffix == ".gif":
        first, *rest = animation.pictures(dots_per_inch)
        memory = io.BytesIO()
        first.save(memory, "GIF", save_all=True, append_images=rest, duration=round(1000 / animation.speed), loop=0)
        write_atomically(target, memory.getvalue())
    else:
        with plt.rc_context({"savefig.dpi": dots_per_inch, "animation.embed_limit": 200.0}):
            write_atomically(target, animation.to_jshtml(fps=round(animation.speed)).encode())
    plt.close(animation.figure)
    return target
