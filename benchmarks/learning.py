"""Learners with networks beside Stable-Baselines3: the time of a step with its update, and returns over five seeds.

    python -m benchmarks.learning [--rounds 20] [--seeds 5] [--peer-seeds 2] [--hallways 5] [--sbx PYTHON]
        [--out learning.json]

One thread, CPU time, the libraries in turn. SB3 is installed by `make bench` alone; where it is not, or MuJoCo is
not, what needs them is left out and said so. The JSON is drawn beside it, in a PNG of the same name.

- One step of the environment and one update of soft actor-critic: 64 x 64 units, batch 128, Pendulum-v1, target twice
  as fast as SB3; 256 x 256, batch 256, HalfCheetah-v5, target 1.4 times.
- Pendulum-v1, 5,000 steps, 64 x 64 units, batch 128, learning rate 1e-3: the mean return of ten episodes without draws,
  for each seed. Target: a mean of at least -150 over the seeds, and no seed below -200.
- Tabular soft Q-learning on CliffWalking and Taxi, temperature 1, discount 0.99, 300,000 and 400,000 steps of the
  action prior: the largest KL of its policy from that of "variational", over the states that this one comes to. Target:
  below 1e-4.
- Stein soft Q-learning among four equally good goals, 10,000 steps in the entropy form, the first 3,000 uniform: the
  share of 1,000 walks that end at each goal. Target: in 4 of 5 seeds .97 end at one, and .08 at each. Beside it SAC
  with a learned temperature, and DDPG, of SB3 (--peer-seeds).
- A hallway after pretraining in all directions (`benchmarks.fine_tuning`, --hallways seeds).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import cai
from benchmarks.elsewhere import numbers_of
from benchmarks.fine_tuning import hallways
from cai.inference import SoftActorCritic
from cai.models import TrajectoryModel, environment_model, multi_goal
from cai.models.zoo.plane import GOALS

__all__ = [
    "JOBS",
    "TABLES",
    "Job",
    "draw",
    "goal_shares",
    "largest_divergence",
    "main",
    "played",
    "returns",
    "step_times",
]

PEER = "stable-baselines3"
STRIDE = 200  # steps between two readings of the clock
FLOOR_MEAN, FLOOR_EACH = -150.0, -200.0
REACHED, AT_EACH = 0.97, 0.08
STEIN = {"hidden_sizes": (64, 64), "batch_size": 128, "learning_rate": 1e-3, "value_samples": 32, "particle_sets": 16}


@dataclass(frozen=True)
class Job:
    """A learner in an environment.

    Attributes:
        world: a Gymnasium id.
        hidden: units of each of two hidden layers.
        batch: transitions of an update.
        factor: how many times faster than the peer it should be.
    """

    world: str
    hidden: int
    batch: int
    factor: float

    def options(self) -> dict[str, Any]:
        """Of the backend."""
        sizes = (self.hidden, self.hidden)
        return {"hidden_sizes": sizes, "batch_size": self.batch, "learning_rate": 1e-3, "target_entropy": "auto"}


JOBS = (Job("Pendulum-v1", 64, 128, 2.0), Job("HalfCheetah-v5", 256, 256, 1.4))
TABLES = {"CliffWalking-v1": 300_000, "Taxi-v4": 400_000}


def _own(job: Job) -> Callable[[], None]:
    """A call that takes so many steps with an update each."""
    world = environment_model(job.world, discount=0.99, temperature=1.0)
    learner: Any = SoftActorCritic(steps=10_000_000, buffer_size=100_000, **job.options()).learner(world)
    held = [learner.init(world, seed=0)]

    def run() -> None:
        held[0] = learner.step(held[0])[0]

    return run


def _peer(job: Job, steps: int, seed: int) -> Any:
    """SB3's learner with the same options.

    Raises:
        ImportError: if it is not installed.
    """
    from stable_baselines3 import SAC

    return SAC(
        "MlpPolicy",
        job.world,
        learning_rate=1e-3,
        batch_size=job.batch,
        buffer_size=min(steps, 100_000),
        gamma=0.99,
        seed=seed,
        device="cpu",
        policy_kwargs={"net_arch": [job.hidden, job.hidden]},
    )


def _theirs(job: Job) -> Callable[[], None]:
    model = _peer(job, 100_000, 0)

    def run() -> None:
        model.learn(STRIDE, reset_num_timesteps=False)

    return run


@contextlib.contextmanager
def _sbx(job: Job, python: str | None) -> Iterator[Callable[[], float] | None]:
    """A function that returns the seconds of a step of sbx, in a process of its own; None without a Python for it."""
    if python is None:
        yield None
        return
    command = [python, str(Path(__file__).with_name("sbx_steps.py"))]
    command += [job.world, str(job.hidden), str(job.batch), str(STRIDE)]
    with numbers_of(command) as ask:
        yield ask


def step_times(job: Job, rounds: int, sbx: str | None = None) -> dict[str, float | str]:
    """Seconds of CPU time of one step with its update, the median of so many rounds; or why there is none.

    Args:
        job: what is done.
        rounds: of 200 steps; the libraries take turns.
        sbx: a Python that has sbx, see `benchmarks.sbx_steps`.
    """
    calls: dict[str, Callable[[], None]] = {}
    found: dict[str, float | str] = {}
    for name, prepare in (("cai", _own), (PEER, _theirs)):
        try:
            calls[name] = prepare(job)
            calls[name]()  # the steps without updates, and what is loaded at first
        except (ImportError, ValueError) as error:
            found[name] = f"not here: {str(error).splitlines()[0]}"
            calls.pop(name, None)
    times: dict[str, list[float]] = {name: [] for name in calls}
    with _sbx(job, sbx) as theirs:
        for _ in range(rounds):
            for name, call in calls.items():
                begun = time.process_time()
                call()
                times[name].append((time.process_time() - begun) / STRIDE)
            if theirs is not None:
                times.setdefault("sbx", []).append(theirs())
    return found | {name: statistics.median(parts) for name, parts in times.items()}


def returns(job: Job, seeds: int, steps: int, episodes: int = 10) -> dict[str, list[float] | str]:
    """Mean returns of episodes without draws, one for each seed; or why there are none.

    Args:
        job: what is learned.
        seeds: how many.
        steps: of each run.
        episodes: whose mean is taken.
    """
    world = environment_model(job.world, discount=0.99, temperature=1.0)
    own = []
    for seed in range(seeds):
        answer = cai.infer(world, SoftActorCritic(steps=steps, **job.options()), seed=seed)
        own.append(played(answer.policy(), job.world, seed, episodes))
    try:
        theirs: list[float] | str = [
            played(_peer(job, steps, seed).learn(steps), job.world, seed, episodes) for seed in range(seeds)
        ]
    except ImportError as error:
        theirs = f"not here: {error}"
    return {"cai": own, PEER: theirs}


class Acting:
    """A learner of SB3 as a policy that `cai` plays, in the same episodes as its own.

    Args:
        learner: that has learned.
    """

    horizon = math.inf

    def __init__(self, learner: Any) -> None:
        self.learner = learner

    def act(self, observations: Any, t: int = 0, *, generator: Any = None, deterministic: bool = False) -> Any:
        """Actions for a batch of observations."""
        return torch.as_tensor(self.learner.predict(observations.numpy(), deterministic=deterministic)[0])


def played(policy: Any, world: str, seed: int, episodes: int) -> float:
    """The mean return of episodes without draws.

    Args:
        policy: of `cai`, or a learner of SB3.
        world: a Gymnasium id.
        seed: of the episodes.
        episodes: how many.
    """
    policy = policy if hasattr(policy, "act") else Acting(policy)
    model = environment_model(world, discount=0.99, temperature=1.0)
    found = cai.evaluate(policy, model, episodes=episodes, seed=seed).deterministic_return
    assert found is not None  # every policy here can act without draws
    return found.mean


def largest_divergence(model: TrajectoryModel, steps: int) -> float:
    """The largest KL of the policy that tabular soft Q-learning finds from that of "variational", nats.

    Args:
        model: over an infinite horizon.
        steps: transitions.
    """
    answer = cai.infer(model, "soft-q-learning", steps=steps, explore=1.0)
    best: Any = cai.infer(model, "variational")
    found, wanted = answer.action_probs[0], best.action_probs[0]
    parts = torch.where(found > 0, found * (found.log() - wanted.log()), torch.zeros(()).double())
    met = (best.state_marginals.sum(0)[: len(parts)] > 0) & model.nonterminal
    return float(parts.sum(-1)[met].max())


def goal_shares(seed: int, steps: int = 10_000, warmup_steps: int = 3000) -> list[float]:
    """The share of walks that end at each of the four goals of "multi-goal", by Stein soft Q-learning.

    Args:
        seed: of the run.
        steps: transitions.
        warmup_steps: uniform ones among them, at the start.
    """
    options = {"steps": steps, "warmup_steps": warmup_steps, **STEIN}
    answer = cai.infer(multi_goal(), "stein-soft-q-learning", seed=seed, entropy_form=True, **options)
    return _shares(answer.policy())


def peer_goal_shares(name: str, seed: int, steps: int = 10_000, warmup_steps: int = 3000) -> list[float]:
    """The same shares by a learner of SB3, with networks, batches and rates of the same sizes.

    Args:
        name: "SAC", with a learned temperature, or "DDPG", whose walks have its noise, .1 of a step, too.
        seed: of the run.
        steps: transitions.
        warmup_steps: uniform ones among them, at the start.

    Raises:
        ImportError: if it is not installed.
    """
    import stable_baselines3
    from stable_baselines3.common.noise import NormalActionNoise

    world = multi_goal()
    noise = NormalActionNoise(np.zeros(2), np.full(2, 0.1)) if name == "DDPG" else None
    model = getattr(stable_baselines3, name)(
        "MlpPolicy",
        cai.models.environment(world),
        learning_rate=STEIN["learning_rate"],
        batch_size=STEIN["batch_size"],
        learning_starts=warmup_steps,
        buffer_size=steps,
        gamma=world.discount,
        action_noise=noise,
        train_freq=1,
        gradient_steps=1,
        seed=seed,
        device="cpu",
        policy_kwargs={"net_arch": list(STEIN["hidden_sizes"])},
    ).learn(steps)

    class Walking:
        """SB3's policy on states."""

        horizon = world.horizon

        def act(self, states: Tensor, t: int = 0, *, generator: Any = None, deterministic: bool = False) -> Tensor:
            late = torch.full((len(states), 1), t / world.horizon)
            seen = torch.cat([states.float(), late], 1).numpy()
            found = torch.as_tensor(model.predict(seen, deterministic=noise is not None)[0]).double()
            if noise is not None:
                found = found + 0.1 * torch.randn(found.shape, generator=generator, dtype=torch.float64)
            return found.clamp(-1, 1)

    return _shares(Walking())


def _peer_shares(name: str, seeds: int) -> list[list[float]] | str:
    """Those shares for each seed, which are also printed; or why there are none."""
    try:
        found = [peer_goal_shares(name, seed) for seed in range(seeds)]
    except ImportError as error:
        return f"not here: {error}"
    for seed, shares in enumerate(found):
        line = f"{sum(shares):.3f} at a goal, {', '.join(f'{share:.3f}' for share in shares)} at each"
        print(f"multi-goal, {name} of {PEER}, seed {seed}: {line}", flush=True)
    return found


def _shares(policy: Any) -> list[float]:
    """The share of 1,000 walks of a policy that end at each goal."""
    states = multi_goal().rollout(policy, 1000, torch.Generator().manual_seed(5)).states
    apart = (states[:, :, None] - torch.tensor(GOALS, dtype=torch.float64)).norm(dim=-1)
    shares: list[float] = (apart < 1).any(1).double().mean(0).tolist()
    return shares


def draw(told: dict[str, Any], path: Path) -> None:
    """Times and returns, as a picture.

    Args:
        told: what `main` writes.
        path: of the PNG.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    colors = {"cai": "#0072B2", PEER: "#D55E00", "sbx": "#009E73"}
    for place, times in enumerate(told["step_times"].values()):
        for shift, (name, seconds) in zip((-0.27, 0.0, 0.27), times.items(), strict=False):
            if isinstance(seconds, str):
                left.text(0, place + shift, f" {name}: not measured", va="center", fontsize=9, color="0.4")
            else:
                left.barh(place + shift, 1e3 * seconds, 0.25, color=colors[name])
                left.text(1e3 * seconds, place + shift, f" {name} {1e3 * seconds:.2f}", va="center", fontsize=9)
    left.set_yticks(range(len(told["step_times"])), list(told["step_times"]))
    left.set_xlabel("CPU time of a step with its update (ms)")
    left.margins(x=0.8)  # room for the names beside the bars
    left.set_ylim(len(told["step_times"]) - 0.4, -0.6)
    left.set_title("Soft actor-critic, one thread")
    for name, values in told["returns"].items():
        if not isinstance(values, str):
            right.plot(
                range(len(values)), values, "o", color=colors[name], label=f"{name}, mean {statistics.mean(values):.0f}"
            )
            right.axhline(statistics.mean(values), color=colors[name], linewidth=1)
    right.axhline(FLOOR_MEAN, color="0.4", linestyle="--", label="target of the mean")
    right.set_xticks(range(max(len(values) for values in told["returns"].values() if not isinstance(values, str))))
    right.set_xlabel("seed")
    right.set_ylabel("return of an episode (reward units)")
    right.set_title(f"Pendulum-v1 after {told['steps']:,} steps")
    right.legend(fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Measures and prints; writes JSON and a picture where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peer-seeds", type=int, default=2)
    parser.add_argument("--hallways", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--sbx", help="a Python that has sbx, see benchmarks.sbx_steps")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = {"steps": arguments.steps, "step_times": {}, "tables": {}}
    for job in JOBS:
        title = f"{job.world}, {job.hidden} x {job.hidden}, batch {job.batch}"
        times = step_times(job, arguments.rounds, arguments.sbx)
        told["step_times"][title] = times
        shown = [f"{n} {1e3 * x:.3g} ms" if isinstance(x, float) else f"{n} {x}" for n, x in times.items()]
        print(f"{title}: {'; '.join(shown)} (target: {job.factor:g} times as fast)", flush=True)
    for name, steps in TABLES.items():
        model = cai.models.gymnasium_model(name, horizon=math.inf, discount=0.99, temperature=1.0)
        told["tables"][name] = largest_divergence(model, steps)
        print(f"{name}, {steps:,} steps: largest KL {told['tables'][name]:.2g} nats (target: < 1e-4)", flush=True)
    told["returns"] = returns(JOBS[0], arguments.seeds, arguments.steps)
    for name, values in told["returns"].items():
        line = (
            values if isinstance(values, str) else f"{[round(x) for x in values]}, mean {statistics.mean(values):.0f}"
        )
        print(f"{name}: {line} (target: mean >= {FLOOR_MEAN:g}, each >= {FLOOR_EACH:g})", flush=True)
    told["goals"] = [goal_shares(seed) for seed in range(arguments.seeds)]
    for seed, shares in enumerate(told["goals"]):
        line = f"{sum(shares):.3f} at a goal, {', '.join(f'{share:.3f}' for share in shares)} at each"
        print(f"multi-goal, seed {seed}: {line} (target: >= {REACHED:g}, each >= {AT_EACH:g})", flush=True)
    told["peer_goals"] = {name: _peer_shares(name, arguments.peer_seeds) for name in ("SAC", "DDPG")}
    told["hallways"] = hallways(arguments.hallways)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(told, indent=1))
        draw(told, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
