"""The pictures of the site: a model of the zoo each, and for each backend an answer to a small problem."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

import cai
from cai.models import bridge, dubins, multi_goal
from cai.models.zoo.registry import zoo_entries
from cai.pictures import MASS_MAP, plot_action_values, plot_learning, plot_map, plot_model, plot_plan

__all__ = ["BACKEND_PICTURES", "draw_all"]

LEARNED_STEPS = 100_000
VISITS = "expected visits (of an end: its probability)"


def planned(name: str, slip: float = 0.2, **options: Any) -> Figure:
    """What a backend believes on the bridge beside what its policy does in the true world."""
    model = bridge(slip=slip)
    answer = cai.infer(model, name, throw=False, **options)
    outcome: Any = cai.evaluate(cai.extract_policy(answer), model)
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    if answer.values is not None:
        cai.plot_values(answer, ax=axes[0])
    else:
        plot_map(model, _visits(model, answer.state_marginals), VISITS, ax=axes[0], colors=MASS_MAP)
        axes[0].set_title(f"Where {name} believes it goes")
    plot_map(model, _visits(model, outcome.occupancy), VISITS, ax=axes[1], colors=MASS_MAP)
    earned, falls = outcome.expected_return, outcome.ends_in["chasm"]
    axes[1].set_title(f"In the true world: return {earned:.2f}, ends in the chasm {falls:.0%}")
    return figure


def _visits(model: Any, marginals: torch.Tensor) -> torch.Tensor:
    """How often each state is visited; where runs end, how probable that end is."""
    return torch.where(model.mdp.terminal, marginals[-1], marginals.sum(0)).detach()


def steered(name: str, **options: Any) -> Figure:
    """The plan of a backend for Dubins' car."""
    return plot_plan(cai.infer(dubins(), name, throw=False, **options))


def learned(name: str, slip: float = 0.2, **options: Any) -> Figure:
    """The bound of a learner over its steps on the bridge, below that of the best policy."""
    model = bridge(slip=slip)
    answers = [
        cai.infer(model, name, seed=seed, steps=LEARNED_STEPS, checkpoint_every=1000, throw=False, **options)
        for seed in range(2)
    ]
    return plot_learning(answers, what="elbo", exact=cai.infer(model, "variational"))


def several_modes() -> Figure:
    """Q over both actions where four goals are equally far, and draws of the sampler on top."""
    options = {"steps": 2500, "warmup_steps": 1500, "hidden_sizes": (64, 64), "batch_size": 64, "learning_rate": 1e-3}
    answer = cai.infer(multi_goal(), "stein-soft-q-learning", entropy_form=True, seed=0, **options)
    return plot_action_values(answer, [[0.0, 0.0], [2.5, 2.5]])


BACKEND_PICTURES: dict[str, tuple[Callable[[], Figure], str]] = {
    **{
        name: (
            partial(planned, name),
            "The bridge, slip 0.2: on the left what the answer holds, on the right what its policy does.",
        )
        for name in (
            "exact",
            "variational",
            "optimistic",
            "enumeration",
            "smc",
            "importance",
            "restricted",
            "max-product",
            "value-iteration",
            "boltzmann",
            "one-step-entropy",
            "reward-weighted",
            "em",
            "posterior-policy-iteration",
            "kl-policy-iteration",
        )
    },
    "risk": (partial(planned, "risk", eta=-1.0), "The bridge, slip 0.2, at eta = -1: caution goes the long way round."),
    "z-iteration": (
        partial(planned, "z-iteration", slip=0.0),
        "The bridge without slip, where every action has one next state.",
    ),
    "ilqr": (partial(steered, "ilqr", restarts=2), "Dubins' car: the plan, and runs of its policy in the true world."),
    "aico": (partial(steered, "aico"), "Dubins' car: trajectories of the answer."),
    "mppi": (
        partial(steered, "mppi", lookahead=30),
        "Dubins' car: the plan, and the trajectories that it weighs at the start.",
    ),
    **{
        name: (
            partial(learned, name),
            "The bridge, slip 0.2: the bound of what was learned, two seeds, below the exact one.",
        )
        for name in ("soft-q-learning", "soft-actor-critic", "policy-gradient")
    },
    "path-consistency": (
        partial(learned, "path-consistency", slip=0.0),
        "The bridge without slip: the bound of what was learned, two seeds, below the exact one.",
    ),
    "stein-soft-q-learning": (
        several_modes,
        "Four goals after 2,500 steps: trajectories, and Q over both actions in two places with draws of the sampler.",
    ),
}
"""What is drawn of each backend, and what the picture shows."""


def draw_all(folder: Path) -> None:
    """Draws every picture as backends-NAME.png and zoo-NAME.png, in two processes."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = [("backends", name) for name in reversed(BACKEND_PICTURES)]  # the slow ones first
    tasks += [("zoo", name) for name in zoo_names()]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(partial(_draw, folder), tasks):
            pass


def zoo_names() -> list[str]:
    """The models of the gallery, in its order."""
    return [entry.name for entry in zoo_entries()]


def _draw(folder: Path, task: tuple[str, str]) -> None:
    torch.set_num_threads(1)
    kind, name = task
    figure = BACKEND_PICTURES[name][0]() if kind == "backends" else plot_model(cai.models.build_model(name))
    figure.savefig(folder / f"{kind}-{name}.png", dpi=100)
    plt.close(figure)
