"""Dense problems over infinite horizons: how long an answer takes, in units of one dense solve by numpy.

    python -m benchmarks.dense [--states 999] [--actions 4] [--out dense.json]

Every transition probability is positive, and rewards cost something, so that all backends but cautious ones have an
answer. Times are CPU seconds of the best of two runs, and the solve is timed before each row, so that ratios are of one
moment; set OMP_NUM_THREADS=1 to compare with other runs.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import cai
from cai.models import MDP, TrajectoryModel

__all__ = ["dense_model", "main", "measure"]

BACKENDS = ("exact", "variational", "optimistic", "risk:eta=0.5", "value-iteration", "boltzmann")
DISCOUNTS = (0.5, 0.99, 1 - 1e-6)
LIMIT = 1.0  # CPU seconds that no problem of under 1,000 states is to take


def dense_model(num_states: int, num_actions: int, discount: float, seed: int = 0) -> TrajectoryModel:
    """Random transitions and rewards, the latter between 0 and about 8 nats below."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(num_states), size=(num_states, num_actions))
    rewards = rng.normal(size=(num_states, num_actions)) - 4.0
    mdp = MDP(chances, np.full(num_states, 1 / num_states))
    return TrajectoryModel(mdp, rewards, horizon=math.inf, discount=discount)


def _cpu_seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call takes, and what it returns."""
    begun = time.process_time()
    found = work()
    return time.process_time() - begun, found


def measure(num_states: int, num_actions: int) -> list[dict[str, Any]]:
    """A row for each backend and discount: CPU seconds, those of one solve, status and the bound on the error."""
    rows, rng = [], np.random.default_rng(1)
    matrix, side = rng.random((num_states, num_states)) + num_states * np.eye(num_states), rng.random(num_states)
    for backend in BACKENDS:
        for discount in DISCOUNTS:
            model = dense_model(num_states, num_actions, discount)
            ask = partial(cai.infer, model, backend, throw=False)
            solve = min(_cpu_seconds(partial(np.linalg.solve, matrix, side))[0] for _ in range(3))
            seconds, found = min((_cpu_seconds(ask) for _ in range(2)), key=lambda timed: timed[0])
            details = {"status": found.status.label, "error_bound": found.details["error_bound"]}
            row = {"backend": backend, "discount": discount, "seconds": seconds, "solve_seconds": solve}
            rows.append(row | details)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Prints the rows, and writes them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=999)
    parser.add_argument("--actions", type=int, default=4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows = measure(options.states, options.actions)
    print(f"{'backend':18} {'discount':>10} {'CPU s':>7} {'solves':>7} {'error bound':>12}  status")
    for row in rows:
        ratio = row["seconds"] / max(row["solve_seconds"], 1e-9)
        numbers = f"{row['discount']:>10.7g} {row['seconds']:7.2f} {ratio:7.1f} {row['error_bound']:12.1e}"
        print(f"{row['backend']:18} {numbers}  {row['status']}{'' if row['seconds'] <= LIMIT else ', over a second'}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
