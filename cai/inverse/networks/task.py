"""What is fitted on a network: features scaled to the same size, a start that costs, and why a start fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cai.inverse.estimation.fitting import Task
from cai.inverse.networks.cycles import heaviest_cycle, spectral_radius
from cai.inverse.networks.objective import NetworkObjective
from cai.inverse.networks.problem import NetworkProblem
from cai.inverse.networks.separation import separated
from cai.inverse.search.curvature import rounding_of
from cai.models.demonstrations.route_network import RouteNetwork
from cai.models.demonstrations.trips import read_trips
from cai.tasks.mapping import Map

__all__ = ["network_task"]

Array = np.ndarray[Any, Any]


def network_task(
    network: RouteNetwork,
    demonstrations: Any,
    features: Sequence[str] | None,
    objective: str,
    drop: Literal["report"] | None,
    map: Map | None = None,
) -> Task:
    """Reads trips and features of a network; arguments as of `cai.inverse.fit`.

    Raises:
        ValueError: as `RouteNetwork.features` and `read_trips`; and if there are no features.
    """
    if features is None:
        raise ValueError(
            f"features is missing; name the attributes that are paid, such as features={list(network.attributes[:2])}"
        )
    trips = read_trips(network, demonstrations, drop)
    likelihood = NetworkObjective(network, trips, features, map)
    of_both = np.concatenate([likelihood.of_turns, likelihood.of_exits])
    present = of_both != 0
    scales = np.sqrt((of_both**2).sum(0) / present.sum(0))
    refused = {}
    if objective == "moments":
        refused["hessian"] = "under objective 'moments' -H is not the variance of the score; use 'sandwich'"
    return Task(
        objective=likelihood,
        problem=NetworkProblem(network, trips, likelihood.names, objective),
        initial=torch.from_numpy(_downhill(likelihood) / scales),
        scales=torch.from_numpy(scales),
        doubles=True,
        separated=separated(likelihood),
        explain=lambda coefficients: _why_infeasible(likelihood, coefficients),
        default_covariance="sandwich" if objective == "moments" else "hessian",
        refused_covariance=refused,
        dropped=trips.dropped,
        rounding=rounding_of(likelihood.weights, torch.from_numpy(np.diff(trips.starts) + 1)),
    )


def _downhill(likelihood: NetworkObjective) -> Array:
    """[F], minus the sign of features that have one, else 0: on turns, which cycles are made of, or only on exits."""
    turns, exits = likelihood.of_turns, likelihood.of_exits
    up = np.where(turns.any(0), (turns >= 0).all(0), (exits >= 0).all(0))
    down = np.where(turns.any(0), (turns <= 0).all(0), (exits <= 0).all(0))
    return np.where(up, -1.0, np.where(down, 1.0, 0.0))


def _why_infeasible(likelihood: NetworkObjective, coefficients: Tensor) -> str:
    """rho(M) and the heaviest cycle, or that sums leave the range of floats."""
    sums = likelihood.sums(coefficients)
    graph, network = sums.graph, likelihood.network
    radius = spectral_radius(graph.number, graph.tails, graph.heads, sums.weights)
    at = ", ".join(f"{n} = {float(w):.4g}" for n, w in zip(likelihood.names, coefficients, strict=True))
    if radius < 1 - 1e-9:
        return f"sums over routes leave the range of floats at {at}; give a start nearer to 0"
    found = heaviest_cycle(graph.number, graph.tails, graph.heads, sums.turn_logs)
    cycle = ""
    if found is not None:
        links = [str(network.link_index[likelihood.kept.links[k]]) for k in found[0]]
        shown = links if len(links) <= 12 else [*links[:12], "..."]
        cycle = f"; the heaviest cycle is {' -> '.join([*shown, links[0]])} with {found[1]:+.3g} nats a turn"
    return (
        f"rho(M) is about {radius:.4g} at {at}, and sums over routes are infinite unless it is below 1{cycle}; start "
        "more negative, or add a cost every turn pays"
    )
