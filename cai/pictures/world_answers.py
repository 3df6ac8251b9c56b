"""Answers about continuous models by the name of a picture, as the command line asks for them."""

from __future__ import annotations

from matplotlib.figure import Figure

from cai.inference.core.posterior import Posterior
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.inference.registry import infer
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.world import World
from cai.pictures.gaussian_pictures import plot_bands, plot_gains, plot_luck_over_time, plot_value_contours
from cai.pictures.plan_pictures import plot_plan

__all__ = ["draw_world_answer"]


def draw_world_answer(model: World, what: str, backend: str, *, seed: int = 0) -> Figure:
    """A picture of a backend's answer about a continuous model.

    Args:
        model: the model.
        what: "values", contours; "luck", by step; "bands", believed and real means and deviations over time; "gains",
            the policy against temperature; "plan", a plan over the scene, with what it was weighed against.
        backend: whose answer.
        seed: of the backend.

    Raises:
        ValueError: if that picture has no meaning for the model or the answer; says which has.
    """
    if what == "messages":
        raise ValueError(
            f"the messages about {model.name!r} are functions of vectors, not tables over time; draw 'values', the "
            "backward message in reward units, or 'bands', the marginals"
        )
    if what == "gains":
        if not isinstance(model, LinearGaussianModel):
            raise ValueError(
                f"{model.name!r} is not linear-Gaussian, and its policy has no gain of its own at each temperature; "
                "draw 'plan' with --backend ilqr, mppi or aico"
            )
        return plot_gains(model, backend=backend)
    if what in ("bands", "luck") and not isinstance(model, LinearGaussianModel):
        raise ValueError(
            f"{model.name!r} is not linear-Gaussian, so what it does to a policy has no Gaussian {what} to draw; draw "
            "'plan' with --backend ilqr, mppi, aico or smc"
        )
    posterior = infer(model, backend, seed=seed)
    if what == "plan":
        return plot_plan(posterior, seed=seed)
    answer = _gaussian(posterior, what)
    if what == "values":
        return plot_value_contours(answer)
    return plot_luck_over_time(answer) if what == "luck" else plot_bands(answer)


def _gaussian(posterior: Posterior, what: str) -> GaussianPosterior:
    if not isinstance(posterior, GaussianPosterior):
        raise ValueError(
            f"the answer of {posterior.backend!r} holds no quadratic messages to draw {what!r} of; draw 'plan', or ask "
            "--backend ilqr or aico (exact, variational or risk about a linear-Gaussian model)"
        )
    return posterior
