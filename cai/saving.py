"""What `cai compare --out` leaves in a folder: numbers, pictures and films. Importing it loads pyplot."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
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
from cai.pictures.drawing import share_scale
from cai.pictures.gaussian_pictures import plot_bands, plot_value_contours
from cai.pictures.path_pictures import plot_paths
from cai.pictures.plan_pictures import has_plan, plot_plan
from cai.pictures.world_pictures import plot_world
from cai.studies.comparison import Comparison, Row

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
        if isinstance(row.posterior, GaussianPosterior) and result.model.is_finite:
            figures |= _gaussian_figures(row.posterior, name)
    if not continuous:
        figures |= _table_figures(result, answers)
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


def _table_figures(result: Comparison, answers: Sequence[tuple[str, Row]]) -> dict[str, Figure]:
    """Values and luck of each answer, on one scale where they lie on a map; messages; the paths that plans bet on."""
    known = {name: row for name, row in answers if row.posterior is not None and row.posterior.values is not None}
    posteriors = {name: row.posterior for name, row in known.items() if row.posterior is not None}
    on_map = result.model.mdp.layout is not None
    values = {f"values-{name}": plots.plot_values(posterior) for name, posterior in posteriors.items()}
    if on_map and values:
        share_scale(figure.axes[0] for figure in values.values())
    by_state = {name: posterior.luck_by_state() for name, posterior in posteriors.items() if posterior.has_outcomes}
    most = max((float(luck.max()) for luck in by_state.values()), default=0.0)
    made = values
    if any(float(luck.sum()) > 1e-12 for luck in by_state.values()):  # beside luck that is assumed, none is news
        ends = (0.0, plots.BELOW_BLACK * most)
        made |= {f"luck-{name}": plots.plot_luck(posteriors[name], limits=ends) for name in by_state}
    if on_map and result.model.is_finite and known:
        labels = [f"{row.backend}{_ending(row)}" for row in known.values()]
        made["paths"] = plot_paths(list(posteriors.values()), labels=labels)
    exact = [name for name, row in known.items() if str(row.target) == "exact"]
    if exact and result.model.is_finite:
        made["messages"] = plots.plot_messages(posteriors[exact[0]])
    return made


def _ending(row: Row) -> str:
    """Where the policy of a row ends most often in the true world, in words."""
    ends = (row.outcome.ends_in if row.outcome is not None else None) or {}
    if not ends:
        return ""
    region = max(ends, key=lambda name: ends[name])
    return f"; its policy really ends in {region} with probability {ends[region]:.2f}"


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
