"""What `cai compare --out` leaves in a folder: numbers, pictures and films. Importing it loads pyplot."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import NotKnown
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.models.common.files import write_atomically, write_picture
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.world import World
from cai.models.programs.factor_graph import draw_factor_graph
from cai.pictures import plots
from cai.pictures.animations import animate_policy, save_animation
from cai.pictures.gaussian_pictures import plot_bands, plot_value_contours
from cai.pictures.plan_pictures import has_plan, plot_plan
from cai.pictures.world_pictures import plot_world
from cai.studies.comparison import Comparison

__all__ = ["save_comparison"]

logger = logging.getLogger("cai")
FILMED = 3  # runs that a film shows at once


def save_comparison(result: Comparison, folder: Path) -> Iterator[Path]:
    """Writes the numbers and the pictures of a comparison, of a continuous model also films of its policies.

    Args:
        result: of `cai.compare`, on one model.
        folder: which exists.

    Yields:
        Each file, once it is there: comparison.json, the figures as PNG, and films as GIF.
    """
    numbers = result.to_json(indent=2) + "\n"
    yield write_atomically(folder / "comparison.json", numbers.encode())
    figures = {"comparison": result.plot()}
    if result.model.is_finite:
        figures["factor-graph"] = draw_factor_graph(result.model)
    continuous = isinstance(result.model, World)
    if continuous:
        figures["model"] = plot_world(result.model)
    answers = [(_file_name(result, place), row) for place, row in enumerate(result.rows) if row.status.ok]
    for name, row in answers:
        posterior = row.posterior
        if isinstance(posterior, GaussianPosterior) and result.model.is_finite:
            figures |= _gaussian_figures(posterior, name)
        if continuous or posterior is None or posterior.values is None:
            continue
        figures[f"values-{name}"] = plots.plot_values(posterior)
        if posterior.has_outcomes and float(posterior.luck_by_state().sum()) > 1e-12:
            figures[f"luck-{name}"] = plots.plot_luck(posterior)
        if str(row.target) == "exact" and result.model.is_finite and "messages" not in figures:
            figures["messages"] = plots.plot_messages(posterior)
    planned = [(name, row.posterior) for name, row in answers if row.posterior is not None and has_plan(row.posterior)]
    figures |= {f"plan-{name}": plot_plan(posterior) for name, posterior in planned}
    if len(planned) > 1:
        figures["plans"] = plot_plan([posterior for _, posterior in planned])
    for title, figure in figures.items():
        yield write_picture(folder / f"{title}.png", figure)
        plt.close(figure)
    if continuous and result.model.is_finite:
        for name, row in answers:
            yield from _save_film(row.posterior, result.model, folder / f"{name}.gif")


def _gaussian_figures(posterior: GaussianPosterior, name: str) -> dict[str, Figure]:
    """Bands over time where the model is linear-Gaussian, and contours of the value where its state has a plane."""
    if not isinstance(posterior.model, LinearGaussianModel):
        return {}
    figures = {f"bands-{name}": plot_bands(posterior)}
    if posterior.messages is not None and posterior.problem.num_states > 1:
        figures[f"values-{name}"] = plot_value_contours(posterior)
    return figures


def _file_name(result: Comparison, place: int) -> str:
    """What the files of a row are called, in characters that any file system takes."""
    row = result.rows[place]
    twice = sum(other.backend == row.backend for other in result.rows) > 1
    name = re.sub(r"[^\w.+-]+", "-", row.backend).strip("-")
    return f"{name}-{place + 1}" if twice else name


def _save_film(posterior: Posterior | None, model: World, path: Path) -> Iterator[Path]:
    """Films an answer's policy in the true world, if it holds one."""
    if posterior is None:
        return
    try:
        film = animate_policy(posterior.policy(), model, num_runs=FILMED, title=f"{model.name}, {posterior.backend}")
    except (NotKnown, ValueError) as error:  # no policy, or one that leaves the finite numbers
        logger.warning("no film of %r: %s", posterior.backend, error)
        return
    yield save_animation(film, path)
