"""How many steps a learner needs in a hallway, from scratch and after it has learned to move in all directions.

    python -m benchmarks.fine_tuning [--seeds 5] [--steps 2500]

A point mass is pushed through the plane, and a step away from its start pays 1, whatever the direction (after Haarnoja
2017, section 5.2, where it is a quadruped). A hallway has walls that stop it: a policy that goes in all directions only
has to leave out the wrong ones. Stein soft Q-learning learns in the open plane first, and its networks go on in the
hallway. Counted are the steps after which five episodes in a row had a mean return of at least .7 of that of a push
along the hallway; the median over the seeds should be at most .6 of that from scratch.
"""

from __future__ import annotations

import argparse
import math
import statistics
from typing import Any

import gymnasium
import numpy as np
import torch

import cai
from cai.models import environment_model

__all__ = ["PointMass", "hallways", "main", "pushed_along", "steps_needed"]

LENGTH = 50  # steps of an episode
FAR = 1.0  # from the start, where steps pay
WIDTH, BACK = 0.3, -0.5  # of the hallway: half of it, and where it is closed
ROW, SHARE = 5, 0.7
MOST = 0.6
OPTIONS: dict[str, Any] = {
    "hidden_sizes": (64, 64),
    "batch_size": 128,
    "learning_rate": 1e-3,
    "value_samples": 32,
    "particle_sets": 16,
    "entropy_form": True,
}


class PointMass(gymnasium.Env[np.ndarray, np.ndarray]):
    """A mass that is pushed, and paid for being far away; it starts at rest in the origin.

    Args:
        walls: whether there is a hallway, open to the right alone.
        returns: a list to which the return of each episode that was cut is added.
    """

    observation_space = gymnasium.spaces.Box(-100.0, 100.0, (4,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, walls: bool, returns: list[float] | None = None) -> None:
        self.walls = walls
        self.returns: list[float] = [] if returns is None else returns

    def _seen(self) -> np.ndarray:
        return np.concatenate([self.place / 5, self.velocity]).astype(np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """At rest in the origin."""
        super().reset(seed=seed)
        self.place, self.velocity, self.steps, self.total = np.zeros(2), np.zeros(2), 0, 0.0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        """A tenth of a second; a wall takes away the velocity towards it."""
        self.velocity = 0.9 * self.velocity + 0.2 * np.asarray(action, dtype=np.float64)
        after = self.place + 0.1 * self.velocity
        if self.walls:
            inside = np.clip(after, [BACK, -WIDTH], [np.inf, WIDTH])
            self.velocity = np.where(inside == after, self.velocity, 0.0)
            after = inside
        self.place, self.steps = after, self.steps + 1
        reward = float(np.linalg.norm(after) > FAR)
        self.total += reward
        if self.steps == LENGTH:
            self.returns.append(self.total)
        return self._seen(), reward, False, self.steps == LENGTH, {}


def pushed_along() -> float:
    """The return of an episode in which the mass is pushed along the hallway at every step."""
    mass = PointMass(walls=True)
    mass.reset()
    for _ in range(LENGTH):
        mass.step(np.array([1.0, 0.0]))
    return mass.returns[0]


def steps_needed(seed: int, steps: int) -> dict[str, float]:
    """Steps in the hallway until the target of the return is met, "scratch" and "fine-tuned"; inf if it never is.

    Args:
        seed: of all three runs.
        steps: transitions of each.
    """
    found = {}
    first = cai.infer(_world(False), "stein-soft-q-learning", steps=steps, seed=seed, **OPTIONS)
    for name, initial in (("scratch", None), ("fine-tuned", first)):
        returns: list[float] = []
        # what was learned acts at once: a start by uniform steps would put it off
        warmup = {} if initial is None else {"warmup_steps": 0}
        cai.infer(
            _world(True, returns), "stein-soft-q-learning", steps=steps, seed=seed, initial=initial, **warmup, **OPTIONS
        )
        means = np.convolve(returns, np.full(ROW, 1 / ROW), "valid")
        met = np.flatnonzero(means >= SHARE * pushed_along())
        found[name] = float((met[0] + ROW) * LENGTH) if len(met) else math.inf
    return found


def _world(walls: bool, returns: list[float] | None = None) -> Any:
    return environment_model(lambda: PointMass(walls, returns), discount=0.97, temperature=0.1)


def hallways(seeds: int, steps: int = 2500) -> list[dict[str, float]]:
    """Measures so many seeds and prints; see `steps_needed`."""
    found = []
    for seed in range(seeds):
        found.append(steps_needed(seed, steps))
        line = f"{found[-1]['scratch']:g} steps from scratch, {found[-1]['fine-tuned']:g} after pretraining"
        print(f"hallway, seed {seed}: {line}", flush=True)
    if found:
        # a run that never gets there took all of its steps at least
        ratios = [part["fine-tuned"] / min(part["scratch"], steps) for part in found]
        print(f"hallway: median {statistics.median(ratios):.2f} of the steps (target: <= {MOST:g})", flush=True)
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2500)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    hallways(arguments.seeds, arguments.steps)


if __name__ == "__main__":
    main()
