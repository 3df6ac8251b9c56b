"""Returns of learners in four classic worlds, beside those of Stable-Baselines3.

    python -m benchmarks.control_tasks [--seeds 3] [--episodes 20] [--out control_tasks.json]

The same seeds, steps, networks (64 x 64), discount and, off policy, learning rates, batches and updates a step; all
other options are each library's own. Both policies are played without draws in the same episodes. SB3 and Box2D (of
LunarLander-v3) are installed by `make bench` alone; what is not there is left out and said so. There is no target:
this is a report, of learners that were not tuned for these worlds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch

import cai
from benchmarks.learning import played
from cai.models import environment_model

__all__ = ["TASKS", "Task", "main"]

DISCOUNT = 0.99
HIDDEN = (64, 64)
OFF_POLICY = {"learning_rate": 1e-3, "batch_size": 128}


@dataclass(frozen=True)
class Task:
    """A learner and its peer in an environment.

    Attributes:
        world: a Gymnasium id.
        steps: of the environment.
        backend: of `cai`.
        peer: the class of SB3.
        temperature: reward units a nat; where it is learned, the first.
        options: of the backend beside networks, rates and batches.
    """

    world: str
    steps: int
    backend: str
    peer: str
    temperature: float
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def shared(self) -> dict[str, Any]:
        """Learning rate and batches, where both learn from a buffer."""
        return {} if self.backend == "policy-gradient" else OFF_POLICY

    def own(self, seed: int, episodes: int) -> float:
        """The mean return of the policy that `cai` learns, without draws."""
        world = environment_model(self.world, discount=DISCOUNT, temperature=self.temperature)
        options = {"steps": self.steps, "hidden_sizes": HIDDEN, **self.shared, **dict(self.options)}
        answer = cai.infer(world, self.backend, seed=seed, **options)
        return played(answer.policy(), self.world, seed, episodes)

    def theirs(self, seed: int, episodes: int) -> float:
        """The mean return of the policy that SB3 learns, without draws.

        Raises:
            ImportError: if it is not installed.
        """
        import stable_baselines3

        options: dict[str, Any] = {"gamma": DISCOUNT, "policy_kwargs": {"net_arch": list(HIDDEN)}, **self.shared}
        if self.peer == "DQN":
            options |= {"train_freq": 1, "gradient_steps": 1}
        learner = getattr(stable_baselines3, self.peer)("MlpPolicy", self.world, seed=seed, device="cpu", **options)
        return played(learner.learn(self.steps), self.world, seed, episodes)


AUTO = (("target_entropy", "auto"),)
TASKS = (
    Task("MountainCarContinuous-v0", 20_000, "soft-actor-critic", "SAC", 1.0, AUTO),
    *(
        Task(world, 20_000, backend, peer, temperature)
        for world, temperature in (("CartPole-v1", 0.1), ("Acrobot-v1", 0.1), ("LunarLander-v3", 1.0))
        for backend, peer in (("soft-q-learning", "DQN"), ("policy-gradient", "PPO"))
    ),
)


def measured(task: Task, seeds: int, episodes: int) -> dict[str, Any]:
    """Returns and CPU seconds of both, for each seed; or why there are none.

    Args:
        task: what is learned.
        seeds: how many.
        episodes: whose mean is taken.
    """
    told: dict[str, Any] = {}
    for name, learn in ((f"cai {task.backend}", task.own), (f"SB3 {task.peer}", task.theirs)):
        found, begun = [], time.process_time()
        try:
            found = [learn(seed, episodes) for seed in range(seeds)]
        except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
            told[name] = f"not here: {str(error).splitlines()[0]}"
            continue
        told[name] = {"returns": found, "seconds": (time.process_time() - begun) / seeds}
    return told


def main() -> None:
    """Measures and prints; writes JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    told = {}
    for task in TASKS:
        title = f"{task.world}, {task.steps:,} steps"
        found = measured(task, arguments.seeds, arguments.episodes)
        told[f"{title}: {task.backend}"] = found
        for name, numbers in found.items():
            if isinstance(numbers, str):
                print(f"{title}: {name} {numbers}", flush=True)
                continue
            each = ", ".join(f"{value:.4g}" for value in numbers["returns"])
            mean = statistics.mean(numbers["returns"])
            print(f"{title}: {name} {each}, mean {mean:.4g}; {numbers['seconds']:.0f} s of CPU a run", flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
