"""Filters of one long run beside a loop in plain numpy: the ratio of CPU times.

    python -m benchmarks.filtering [--out filtering.json]

Both begin with the same tables; the loop does a product and a division at each step. A ratio is of one run in turns;
set OMP_NUM_THREADS=1 to compare with other runs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from cai.inference import filter_states
from cai.models import MDP, ObservationModel

__all__ = ["main", "measure"]

RUNS = {2: 20_000, 80: 2_000}  # states: observations
TARGET = 3.0  # times the loop
ROUNDS = 5


def measure(num_states: int, steps: int, rounds: int = ROUNDS) -> dict[str, Any]:
    """Best CPU seconds of the filter and of the loop over one run, and how far their beliefs are apart at most."""
    rng = np.random.default_rng(0)
    table, rows = rng.dirichlet(np.ones(num_states), (num_states, 3)), rng.dirichlet(np.ones(4), num_states)
    mdp, model = MDP(table, np.full(num_states, 1 / num_states)), ObservationModel(rows)
    seen, taken = rng.integers(4, size=steps + 1), rng.integers(3, size=steps)

    def plain() -> np.ndarray:
        belief = rows[:, seen[0]] / rows[:, seen[0]].sum()
        beliefs = [belief]
        for action, observation in zip(taken, seen[1:], strict=True):
            belief = (belief @ table[:, action]) * rows[:, observation]
            belief = belief / belief.sum()
            beliefs.append(belief)
        return np.array(beliefs)

    best, answers = {"cai": np.inf, "loop": np.inf}, {}
    for _ in range(rounds):
        for name, work in (("cai", lambda: filter_states(mdp, model, seen, taken).numpy()), ("loop", plain)):
            begun = time.process_time()
            answers[name] = work()
            best[name] = min(best[name], time.process_time() - begun)
    apart = float(np.abs(answers["cai"] - answers["loop"]).max())
    return {"states": num_states, "observations": steps, **best, "ratio": best["cai"] / best["loop"], "apart": apart}


def main(arguments: list[str] | None = None) -> None:
    """Prints the rows, and writes them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    rows = [measure(*run) for run in RUNS.items()]
    print(f"{'states':>6} {'observations':>12} {'cai, s':>8} {'loop, s':>8} {'ratio':>6}  target {TARGET:g}")
    for row in rows:
        met = "met" if row["ratio"] <= TARGET else "missed"
        times = f"{row['cai']:8.3f} {row['loop']:8.3f} {row['ratio']:6.2f}"
        print(f"{row['states']:>6} {row['observations']:>12} {times}  {met}, beliefs {row['apart']:.0e} apart")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
