"""Fitting route choice: one evaluation against plain scipy, derivatives and whole fits against one evaluation.

    python -m benchmarks.inverse [--side 50] [--destinations 466] [--trips 1832] [--large 183] [--imitation PYTHON]
                                 [--out inverse.json]

The network is that of `benchmarks.road_networks`: edges as links, four features (distance, the square of the angle,
turns back, turns to the left), destinations at drawn links, and trips drawn from known coefficients. The reference
factorises I - M by `scipy.sparse.linalg.splu` as it is, and solves for all destinations at once. Times are CPU times of
one thread, taken in turns in one process; ratios are of medians. The large network runs in a process of its own, for
its memory. A fit by "moments" on a grid is timed in turns with one iteration of `imitation`, where a Python is given
that has it (see `benchmarks.imitation_steps`).
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csc_matrix, csr_matrix, identity
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import splu

import cai
from benchmarks.elsewhere import numbers_of
from benchmarks.road_networks import road_network
from benchmarks.workloads import grid_workload
from cai.inverse import Demonstrations, RouteNetwork, fit
from cai.inverse.networks.objective import NetworkObjective
from cai.models import MDP, LinearReward, TrajectoryModel
from cai.models.demonstrations.trips import Trips, read_trips

__all__ = ["FEATURES", "TRUTH", "main", "make_problem", "make_walks", "reference"]

FEATURES = ("distance", "bend", "u_turn", "left")
TRUTH = (-2.0, -0.5, -3.0, -0.3)
TARGETS = {"evaluation": 1.2, "derivatives": 2.0 + 2 * len(FEATURES), "fit": 40.0, "large": 20.0, "moments": 1.0}
MEMORY = 600e6  # bytes, of the large network


def make_problem(side: int, destinations: int, trips: int, seed: int = 0) -> tuple[RouteNetwork, Trips]:
    """A road network with its features, and trips drawn from `TRUTH` between drawn pairs of links."""
    links, turns = _tables(side, seed)
    rng = np.random.default_rng(seed)
    goals = rng.choice(len(links), destinations, replace=False)
    network = RouteNetwork(links, turns, pd.DataFrame({"link": goals, "destination": np.arange(destinations)}))
    origins = rng.integers(len(links), size=trips)
    chosen = np.concatenate([np.arange(destinations), rng.integers(destinations, size=trips)])[:trips]
    shortest = _shortest(network, origins, goals[chosen], chosen)
    known = fit(network, shortest, features=FEATURES, fixed=dict(zip(FEATURES, TRUTH, strict=True)))
    drawn = known.sample(trips, seed=seed)
    return network, read_trips(network, drawn)


def _tables(side: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(links, turns) of a road network, with the features."""
    roads = road_network(side, seed=seed)
    tails, slots = np.nonzero(roads.available)
    heads = roads.next_states[tails, slots, 0]
    moves = tails != heads
    tails, heads = tails[moves], heads[moves]
    ends = roads.positions
    vectors = ends[:, 2:] - ends[:, :2]
    cross = vectors[tails, 0] * vectors[heads, 1] - vectors[tails, 1] * vectors[heads, 0]
    angle = np.arctan2(cross, (vectors[tails] * vectors[heads]).sum(-1))
    back = np.abs(ends[tails, :2] - ends[heads, 2:]).sum(-1) < 1e-12
    links = pd.DataFrame({"link": np.arange(len(ends)), "distance": np.hypot(*vectors.T)})
    turns = pd.DataFrame({"from": tails, "to": heads, "bend": (angle / (math.pi / 2)) ** 2, "u_turn": back * 1.0})
    turns["left"] = ((angle > math.pi / 4) & ~back) * 1.0
    return links, turns


def make_walks(side: int, number: int, steps: int = 30) -> tuple[RouteNetwork, Trips]:
    """A road network with as many destinations as trips, each where a walk of some steps has ended."""
    links, turns = _tables(side, 0)
    rng = np.random.default_rng(0)
    onward = turns[np.isin(turns["to"], turns["from"])]  # one link of a road network leads nowhere
    begins = np.searchsorted(onward["from"], np.arange(len(links) + 1))
    here = [rng.choice(np.unique(onward["from"]), number, replace=False)]
    for _ in range(steps):
        first, count = begins[here[-1]], np.diff(begins)[here[-1]]
        here.append(onward["to"].to_numpy()[first + rng.integers(count)])
    ends, names = np.unique(here[-1], return_inverse=True)
    network = RouteNetwork(links, turns, pd.DataFrame({"link": ends, "destination": np.arange(len(ends))}))
    frame = pd.DataFrame(
        {
            "trip": np.tile(np.arange(number), steps + 1),
            "position": np.repeat(np.arange(steps + 1), number),
            "link": np.concatenate(here),
            "destination": np.tile(names, steps + 1),
        }
    )
    return network, read_trips(network, frame)


def _shortest(network: RouteNetwork, origins: np.ndarray, goals: np.ndarray, names: np.ndarray) -> pd.DataFrame:
    """Trips along the shortest routes, to begin with."""
    size = network.num_links
    cost = network.links["distance"].to_numpy()[network.heads] + 5.0 * network.turns["u_turn"].to_numpy()
    table = csr_matrix((cost, (network.heads, network.tails)), shape=(size, size))
    rows = []
    for goal in np.unique(goals):
        _, before = dijkstra(table, indices=goal, return_predecessors=True)
        for trip in np.flatnonzero(goals == goal):
            link, position = int(origins[trip]), 0
            while link >= 0:
                rows.append((trip, position, link, names[trip]))
                link, position = (int(before[link]) if link != goal else -1), position + 1
    return pd.DataFrame(rows, columns=["trip", "position", "link", "destination"])


def reference(network: RouteNetwork, trips: Trips) -> Callable[[torch.Tensor], tuple[float, np.ndarray]]:
    """Value and gradient by plain scipy: one factorisation, all destinations at once."""
    of_turns, of_exits = network.features(FEATURES)
    size, count = network.num_links, len(network.destination_index)
    taken = trips.weights @ trips.totals(of_turns, of_exits)
    keys, factors = np.unique(trips.origins * count + trips.destinations, return_counts=True)
    origins, goals = keys // count, keys % count

    def evaluate(coefficients: torch.Tensor) -> tuple[float, np.ndarray]:
        w = coefficients.numpy()
        weights, leaves = np.exp(of_turns @ w), np.exp(of_exits @ w)
        matrix = csc_matrix((weights, (network.tails, network.heads)), shape=(size, size))
        factor = splu((identity(size, format="csc") - matrix).tocsc())
        side = np.zeros((size, count))
        side[network.exit_links, network.exit_destinations] = leaves
        sums = factor.solve(side)
        found = sums[origins, goals]
        side = np.zeros((size, count))
        side[origins, goals] = factors / found
        ahead = factor.solve(side, trans="T")
        flows = weights * np.einsum("er,er->e", ahead[network.tails], sums[network.heads])
        exits = leaves * ahead[network.exit_links, network.exit_destinations]
        return float(taken @ w - factors @ np.log(found)), taken - flows @ of_turns - exits @ of_exits

    return evaluate


def _medians(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """CPU seconds of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            times[name].append(time.process_time() - begun)
    return {name: float(np.median(taken)) for name, taken in times.items()}


def _small(side: int, destinations: int, trips: int, rounds: int) -> dict[str, Any]:
    network, read = make_problem(side, destinations, trips)
    plain = reference(network, read)
    places = [torch.tensor(TRUTH, dtype=torch.float64) * (1 + 1e-3 * i) for i in range(1 + 4 * rounds)]
    turn = iter(range(len(places)))

    def ours() -> Any:
        return NetworkObjective.evaluate(objective, places[next(turn)])

    objective = NetworkObjective(network, read, FEATURES)
    value, slope = plain(places[0])
    found = objective.evaluate(places[0])
    assert found is not None
    assert abs(found[0] - value) <= 1e-10 * abs(value)
    assert np.allclose(found[1], slope, rtol=1e-9, atol=1e-9 * np.abs(slope).max())
    next(turn)

    def derivatives() -> None:
        place = places[next(turn)]
        objective.evaluate(place)
        objective.scores(place)
        objective.hessian(place)

    seconds = _medians({"scipy": lambda: plain(places[1]), "evaluation": ours, "derivatives": derivatives}, rounds)
    begun = time.process_time()
    estimate = fit(network, read, features=FEATURES)
    seconds["fit"] = time.process_time() - begun
    miss = ((estimate.coefficients - np.array(TRUTH)) / estimate.standard_errors).abs().max()
    return {
        "links": network.num_links,
        "turns": network.num_turns,
        "destinations": len(np.unique(read.destinations)),
        "trips": len(read),
        "seconds": seconds,
        "evaluations": estimate.evaluations,
        "largest_z": float(miss),
        "ratios": {
            "evaluation": seconds["evaluation"] / seconds["scipy"],
            "derivatives": seconds["derivatives"] / seconds["evaluation"],
            "fit": seconds["fit"] / seconds["evaluation"],
        },
    }


def _peak() -> int:
    """Bytes, the most that this process has had; `ru_maxrss` would begin with the peak of the process that made it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def _large(side: int, destinations: int) -> dict[str, Any]:
    """One evaluation of a large network against one factorisation, and the peak of its memory."""
    network, read = make_walks(side, destinations)
    before = _peak()
    objective = NetworkObjective(network, read, FEATURES)
    place = torch.tensor(TRUTH, dtype=torch.float64)
    sums = objective.sums(place)
    begun = time.process_time()
    assert sums.system._factor is not None
    factorised = time.process_time() - begun
    del sums  # the peak is that of one evaluation
    begun = time.process_time()
    objective.evaluate(place * 1.001)
    evaluated = time.process_time() - begun
    peak = _peak()
    return {
        "links": network.num_links,
        "turns": network.num_turns,
        "destinations": len(network.destination_index),
        "factorise_seconds": factorised,
        "evaluate_seconds": evaluated,
        "peak_bytes": peak,
        "peak_before_bytes": before,
        "ratio": evaluated / factorised,
    }


def _grid(side: int, horizon: int, walks: int = 200) -> tuple[TrajectoryModel, Demonstrations]:
    """A grid whose four actions may slip, with four features of states, and demonstrations of drawn weights."""
    work = grid_workload(side, side, 4, horizon)
    rng = np.random.default_rng(0)
    size = side * side
    mdp = MDP.from_successors(work.next_states, work.probabilities, np.full(size, 1 / size))
    shown = TrajectoryModel(mdp, LinearReward(rng.random((size, 4)), rng.normal(size=4)), horizon=horizon)
    policy = cai.extract_policy(cai.infer(shown, "variational"))
    begun = TrajectoryModel(mdp, LinearReward(shown.reward.features, np.zeros(4)), horizon=horizon)
    return begun, Demonstrations.from_policy(policy, shown, walks, seed=0)


def _moments(python: str, side: int, horizon: int, rounds: int) -> dict[str, float]:
    """CPU seconds of a fit by "moments", and of an iteration of `imitation` on the same model."""
    model, shown = _grid(side, horizon)
    size = model.mdp.num_states
    arrays = {
        "transitions": model.mdp.dense().numpy(),
        "features": model.reward.features,
        "initial": np.full(size, 1 / size),
        "visits": np.bincount(np.asarray(shown.states)[:, :horizon].ravel(), minlength=size) / len(shown.states),
        "horizon": horizon,
    }
    fit(model, shown, objective="moments")  # what is loaded and made at first
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "grid.npz"
        np.savez(file, **arrays)
        command = [python, str(Path(__file__).with_name("imitation_steps.py")), str(file)]
        with numbers_of(command) as ask:
            for _ in range(rounds):
                begun = time.process_time()
                fit(model, shown, objective="moments")
                ours.append(time.process_time() - begun)
                theirs.append(float(ask()))
    return {"fit": float(np.median(ours)), "imitation": float(np.median(theirs))}


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; 0 if every ratio keeps to its target."""
    parser = argparse.ArgumentParser(prog="benchmarks.inverse", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--side", type=int, default=50)
    parser.add_argument("--destinations", type=int, default=466)
    parser.add_argument("--trips", type=int, default=1832)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--large", type=int, default=183, help="crossings a side of the large network; 0 leaves it out")
    parser.add_argument("--imitation", help="a Python that has imitation, see benchmarks.imitation_steps")
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    parser.add_argument("--run-large", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if options.run_large:
        print(json.dumps(_large(options.large, 1000)))
        return 0
    result = {"small": _small(options.side, options.destinations, options.trips, options.rounds)}
    ratios = dict(result["small"]["ratios"])
    kept = True
    if options.large:
        command = [sys.executable, "-m", "benchmarks.inverse", "--large", str(options.large), "--run-large"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        result["large"] = json.loads(done.stdout)
        ratios["large"] = result["large"]["ratio"]
        peak = result["large"]["peak_bytes"]
        kept = peak <= MEMORY
        print(f"large network: peak {peak / 1e6:.0f} MB (target {MEMORY / 1e6:.0f}) {'kept' if kept else 'MISSED'}")
    if options.imitation:
        result["moments"] = _moments(options.imitation, 50, 20, options.rounds)
        ratios["moments"] = result["moments"]["fit"] / result["moments"]["imitation"]
    small = result["small"]
    print(
        f"{small['links']:,} links, {small['destinations']} destinations, {small['trips']:,} trips; {small['seconds']}"
    )
    for name, ratio in ratios.items():
        good = ratio <= TARGETS[name]
        kept = kept and good
        print(f"{name:<12} {ratio:8.2f}   target {TARGETS[name]:6.1f}   {'kept' if good else 'MISSED'}")
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
