"""Steps a second of vector environments made from models, one thread, CPU time.

    python -m benchmarks.environments [--rounds 5] [--out environments.json]

1,024 copies of a random problem of 1,000 states and 4 actions, seen by `observe="index"`: once with 4 listed outcomes
for each state and action, once with a dense transition table, of which every next state is possible. Episodes end in
a terminal state, and copies are reset when they do. The targets are 2e6 steps a second, and 4e5 where it is dense.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from cai.models import MDP, TrajectoryModel, vector_environment

__all__ = ["main", "problems", "step_rate"]

STATES, ACTIONS, OUTCOMES, COPIES, STEPS = 1000, 4, 4, 1024, 300
TARGETS = {"4 listed outcomes": 2e6, "dense": 4e5}


def problems() -> dict[str, TrajectoryModel]:
    """The two problems, by name."""
    rng = np.random.default_rng(0)
    last = STATES - 1
    reward = rng.normal(size=(STATES, ACTIONS))
    reward[last] = 0.0
    following = rng.integers(STATES, size=(STATES, ACTIONS, OUTCOMES))
    following[last] = last
    chances = rng.dirichlet(np.ones(OUTCOMES), size=(STATES, ACTIONS))
    table = rng.dirichlet(np.ones(STATES), size=(STATES, ACTIONS))
    table[last] = np.eye(STATES)[last]
    processes = {
        "4 listed outcomes": MDP.from_successors(following, chances, initial=0, terminal=[last]),
        "dense": MDP(table, initial=0, terminal=[last]),
    }
    return {name: TrajectoryModel(mdp, reward, math.inf, 1.0, 0.99) for name, mdp in processes.items()}


def step_rate(model: TrajectoryModel, rounds: int) -> float:
    """Steps of single copies a second of CPU time, resets included; the best of so many rounds."""
    worlds = vector_environment(model, COPIES, observe="index", seed=0)
    worlds.reset()
    actions = np.random.default_rng(1).integers(ACTIONS, size=(STEPS, COPIES))
    rates = []
    for _ in range(rounds):
        begun = time.process_time()
        for row in actions:
            _, _, terminated, _, _ = worlds.step(row)
            if terminated.any():
                worlds.reset(options={"reset_mask": terminated})
        rates.append(STEPS * COPIES / (time.process_time() - begun))
    return max(rates)


def main() -> None:
    """Measures and prints; writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: step_rate(model, arguments.rounds) for name, model in problems().items()}
    for name, rate in found.items():
        print(f"{name}: {rate:.3g} steps a second (target {TARGETS[name]:.0e})")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
