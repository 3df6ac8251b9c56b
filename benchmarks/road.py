"""A road network of real size, solved to its end: soft value iteration against a sparse LU, and what the library picks.

    python -m benchmarks.road [--side 317] [--out road.json] [--only "sparse LU" ...]

Every way runs in a process of its own, so that its peak memory (the largest resident set, getrusage) is its own. All
answers are compared with that of the sparse LU, and each is checked by itself: values and policy against the soft
Bellman equation, expected edge flows against their conservation (what enters an edge or begins on it leaves it once).

The exact target conditions the start as well: its drivers begin rather where the way is short. So its values and its
policy are those of the others, and its flows are not: they are checked by their conservation alone.
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
from pathlib import Path
from typing import Any

import numpy as np
import torch

import cai
from benchmarks.road_networks import RoadNetwork, road_network
from cai.inference.tabular.methods.z_iteration import ZIteration
from cai.models import MDP, TrajectoryModel

__all__ = ["WAYS", "bellman_residual", "flow_residual", "main", "road_model"]

WAYS: dict[str, Any] = {
    "soft value iteration": ZIteration(solver="iteration"),
    "sparse LU": ZIteration(solver="linear"),
    "z-iteration": "z-iteration",
    "exact": "exact",
    "variational": "variational",
}
REFERENCE = "sparse LU"
ACCURACY = 1e-8  # asked of values (relative to the largest, in nats), policy and flows (per driver)
TIME_TARGET, MEMORY_TARGET = 60.0, 4.0  # seconds and GB


def road_model(network: RoadNetwork) -> TrajectoryModel:
    """The first-exit problem of a network: temperature 1 block, every turn as likely as any other beforehand."""
    mdp = MDP.from_successors(
        network.next_states,
        np.ones(network.next_states.shape),
        network.initial,
        available=network.available,
        terminal=[network.destination],
    )
    return TrajectoryModel(mdp, network.reward, horizon=math.inf, name="road network")


def bellman_residual(network: RoadNetwork, values: np.ndarray, policy: np.ndarray) -> tuple[float, float]:
    """The largest miss of v = log sum_a e^{r + v'} / n in nats, and of pi = e^{r + v' - v} / n."""
    counts = network.available.sum(-1, keepdims=True)
    scores = np.where(network.available, network.reward + values[network.next_states[..., 0]] - np.log(counts), -np.inf)
    largest = scores.max(-1)
    soft = largest + np.log(np.exp(scores - largest[:, None]).sum(-1))
    nonterminal = np.arange(len(values)) != network.destination
    missed = np.abs(np.exp(scores - soft[:, None]) - policy)[nonterminal].max()
    return float(np.abs(soft - values)[nonterminal].max()), float(missed)


def flow_residual(
    network: RoadNetwork, initial: np.ndarray, policy: np.ndarray, flows: np.ndarray
) -> tuple[float, float]:
    """The largest miss of d(s') = q(s'_1) + sum_s,a d(s) pi(a|s), and of one driver's arrival; drivers per driver."""
    nonterminal = np.arange(len(flows)) != network.destination
    moved = (np.where(nonterminal, flows, 0.0)[:, None] * policy).reshape(-1)
    entered = np.bincount(network.next_states.reshape(-1), moved, minlength=len(flows))
    missed = np.abs(initial + entered - flows)[nonterminal].max()
    return float(missed), abs(float(entered[network.destination]) - 1.0)


def _run(way: str, side: int, seed: int, folder: Path) -> None:
    """One way, in this process: writes its answer and its numbers into the folder."""
    network = road_network(side, seed=seed)
    begun = time.perf_counter()
    model = road_model(network)
    built = time.perf_counter()
    posterior = cai.infer(model, WAYS[way], throw=False)
    assert posterior.values is not None, f"{way}: {posterior.status}"
    values = posterior.values[0].numpy()
    policy = posterior.action_probs[0].numpy()
    flows = posterior.state_marginals[0].numpy()
    seconds = time.perf_counter() - built
    bellman, rows = bellman_residual(network, values, policy)
    initial = posterior.initial.numpy()
    conserved, arrived = flow_residual(network, initial, policy, flows)
    numbers = {
        "way": way,
        "status": posterior.status.label,
        "solver": posterior.details.get("solver"),
        "edges": network.num_edges,
        "turns": network.num_turns,
        "build_seconds": built - begun,
        "seconds": seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "steps": posterior.details.get("steps"),
        "newton_steps": posterior.details.get("newton_steps"),
        "bellman_residual": bellman,
        "policy_residual": rows,
        "flow_residual": conserved,
        "arrival_residual": arrived,
        "largest_value": float(np.abs(values).max()),
        "threads": torch.get_num_threads(),
    }
    np.savez(folder / "answer.npz", values=values, policy=policy, flows=flows, initial=initial)
    (folder / "numbers.json").write_text(json.dumps(numbers))


def _measure(ways: list[str], side: int, seed: int) -> list[dict[str, Any]]:
    """The numbers of every way, with its largest difference from the reference."""
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for index, way in enumerate(ways):
            folder = Path(place) / str(index)
            folder.mkdir()
            options = ["--side", str(side), "--seed", str(seed), "--run", way, "--folder", str(folder)]
            subprocess.run([sys.executable, "-m", "benchmarks.road", *options], check=True)
            rows.append(json.loads((folder / "numbers.json").read_text()))
        if REFERENCE not in ways:
            return rows
        reference = np.load(Path(place) / str(ways.index(REFERENCE)) / "answer.npz")
        for index, row in enumerate(rows):
            answer = np.load(Path(place) / str(index) / "answer.npz")
            same_start = np.array_equal(answer["initial"], reference["initial"])
            for name in ("values", "policy", "flows") if same_start else ("values", "policy"):
                row[f"{name}_difference"] = float(np.abs(answer[name] - reference[name]).max())
    return rows


def _fits(row: dict[str, Any]) -> bool:
    """Whether the answer is as accurate as asked."""
    size = max(1.0, row["largest_value"])
    scaled = [row[name] / size for name in ("bellman_residual", "values_difference") if name in row]
    plain = ("policy_residual", "flow_residual", "arrival_residual", "policy_difference", "flows_difference")
    return row["status"] == "success" and max(scaled + [row[name] for name in plain if name in row]) <= ACCURACY


def _table(rows: list[dict[str, Any]]) -> str:
    """Plain text, one line a way."""
    columns = {
        "seconds": "seconds",
        "peak_gb": "peak GB",
        "steps": "steps",
        "bellman_residual": "Bellman",
        "flow_residual": "flow",
        "values_difference": "d values",
        "policy_difference": "d policy",
        "flows_difference": "d flows",
    }
    head = f"{'way':<22}" + "".join(f"{name:>11}" for name in columns.values()) + f"{'to 1e-8':>9}"
    lines = [head, "-" * len(head)]
    for row in rows:
        cells = [row.get(key, "-") for key in columns]
        shown = [f"{cell:>11.3g}" if isinstance(cell, float) else f"{cell:>11}" for cell in cells]
        lines.append(f"{row['way']:<22}" + "".join(shown) + f"{'yes' if row['fits'] else 'NO':>9}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; 0 if every answer is accurate and the library's own choices keep to the limits."""
    parser = argparse.ArgumentParser(prog="benchmarks.road", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--side", type=int, default=317, help="crossings a side; 317 gives 300,000 edges")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    parser.add_argument("--only", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--run", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.run is not None:
        _run(options.run, options.side, options.seed, options.folder)
        return 0
    rows = _measure(options.only, options.side, options.seed)
    kept = True
    for row in rows:
        row["fits"] = _fits(row)
        chosen = isinstance(WAYS[row["way"]], str)
        within = row["seconds"] < TIME_TARGET and row["peak_gb"] < MEMORY_TARGET
        kept = kept and row["fits"] and (within or not chosen)
    first = rows[0]
    print(
        f"{first['edges']:,} edges as states, {first['turns']:,} turns, {first['threads']} threads; values to", end=" "
    )
    print(f"{first['largest_value']:.0f} nats. Residuals and differences (d) from {REFERENCE!r} are the largest.")
    print(_table(rows))
    print(f"target of the library's own choices: {TIME_TARGET:.0f} s and {MEMORY_TARGET:.0f} GB:", end=" ")
    print("kept" if kept else "MISSED")
    if options.out is not None:
        options.out.write_text(json.dumps({"rows": rows, "kept": kept}, indent=2) + "\n")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
