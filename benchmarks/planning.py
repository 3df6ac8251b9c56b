"""Planning beside plain loops and pytorch_mppi: one step of path-integral control, one iteration of the regulator.

    python -m benchmarks.planning [--rounds 30] [--out planning.json]

One thread, float64, CPU time, all contenders in turns. The problem is the pendulum of the zoo. Path-integral control
draws 1000 samples over 50 steps with uncorrelated noise; the regulator improves one trajectory of 100 steps, with ten
step lengths, from controls of seeded noise. The loops are what one would write for this one problem in NumPy, with
derivatives by hand; their numbers are those of `cai`. trajax, of which the library asks no more time than it takes, is
on no package index and cannot be installed here.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cai.inference.planning.ilqr import IterativeLQR
from cai.inference.planning.mppi import PathIntegral
from cai.models import build_model

__all__ = ["LoopedPendulum", "contenders", "main", "measured"]

SAMPLES, LOOKAHEAD, HORIZON = 1000, 50, 100
NOISE = 2.0
LENGTHS = 1.1 ** -(np.arange(10.0) ** 2)
MOTOR, GRAVITY, FRICTION, DT = 5.0, 9.81, 0.1, 0.05


class LoopedPendulum:
    """The pendulum in NumPy: its steps, costs and derivatives, written for it alone."""

    start = np.array([math.pi, 0.0])

    def step(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """[..., 2] after an action [...]."""
        angle, speed = state[..., 0], state[..., 1]
        speed = speed + DT * (GRAVITY * np.sin(angle) + MOTOR * np.tanh(action / MOTOR) - FRICTION * speed)
        return np.stack([angle + DT * speed, speed], -1)

    def cost(self, state: np.ndarray, action: np.ndarray) -> np.ndarray:
        """[...], of a step."""
        return DT * (5 * (1 - np.cos(state[..., 0])) + 0.05 * state[..., 1] ** 2 + 0.05 * action**2)

    def final(self, state: np.ndarray) -> np.ndarray:
        """[...], of the last state."""
        return 50 * (1 - np.cos(state[..., 0])) + 2.5 * state[..., 1] ** 2

    def rollout(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """States [..., T + 1, 2] of actions [..., T], and costs [...]."""
        state = np.broadcast_to(self.start, (*actions.shape[:-1], 2))
        states = [state]
        for t in range(actions.shape[-1]):
            state = self.step(state, actions[..., t])
            states.append(state)
        passed = np.stack(states, -2)
        return passed, self.cost(passed[..., :-1, :], actions).sum(-1) + self.final(passed[..., -1, :])

    def path_integral(self, plan: np.ndarray, noise: np.ndarray, temperature: float) -> np.ndarray:
        """The weighted mean of plan [H] + noise [K, H], with the noise as the prior."""
        _, costs = self.rollout(plan + noise)
        scores = -costs / temperature - (noise * plan + plan**2 / 2).sum(-1) / NOISE**2
        weights = np.exp(scores - scores.max())
        return plan + weights @ noise / weights.sum()

    def improved(self, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """States, actions and cost after one linear-quadratic step with a line search."""
        angle, speed = states[:-1, 0], states[:-1, 1]
        turn, push = GRAVITY * np.cos(angle), 1 / np.cosh(actions / MOTOR) ** 2
        F = np.zeros((HORIZON, 2, 3))
        F[:, 1] = np.stack([DT * turn, np.full(HORIZON, 1 - DT * FRICTION), DT * push], -1)
        F[:, 0] = DT * F[:, 1]
        F[:, 0, 0] += 1
        gradient = DT * np.stack([5 * np.sin(angle), 0.1 * speed, 0.1 * actions], -1)
        P = np.diag([max(50 * math.cos(states[-1, 0]), 0.0), 5.0])
        p = np.array([50 * math.sin(states[-1, 0]), 5 * states[-1, 1]])
        gains, offsets = np.zeros((HORIZON, 2)), np.zeros(HORIZON)
        for t in reversed(range(HORIZON)):
            H = F[t].T @ P @ F[t]
            H[0, 0] += DT * max(5 * math.cos(angle[t]), 0.0)
            H[1, 1] += 0.1 * DT
            H[2, 2] += 0.1 * DT
            h = gradient[t] + F[t].T @ p
            gains[t], offsets[t] = -H[2, :2] / H[2, 2], -h[2] / H[2, 2]
            P, p = H[:2, :2] + np.outer(H[:2, 2], gains[t]), h[:2] + H[:2, 2] * offsets[t]
        state = np.broadcast_to(self.start, (len(LENGTHS), 2))
        passed, taken = [state], []
        for t in range(HORIZON):
            taken.append(actions[t] + LENGTHS * offsets[t] + (state - states[t]) @ gains[t])
            state = self.step(state, taken[-1])
            passed.append(state)
        tried, found = np.stack(passed, 1), np.stack(taken, 1)
        costs = self.cost(tried[:, :-1], found).sum(-1) + self.final(tried[:, -1])
        best = int(costs.argmin())
        return tried[best], found[best], float(costs[best])


def contenders() -> dict[tuple[str, str], Callable[[], Any]]:
    """What is timed, by work and name."""
    found = {("MPPI step", name): call for name, call in _path_integrals().items()}
    return found | {("iLQR iteration", name): call for name, call in _regulators().items()}


def _path_integrals() -> dict[str, Callable[[], Any]]:
    model, loop = build_model("pendulum", temperature=1.0), LoopedPendulum()
    sampler = PathIntegral(num_samples=SAMPLES, lookahead=LOOKAHEAD, noise=NOISE, correlation=0.0).sampler(model)
    plan, draws = torch.zeros(LOOKAHEAD, 1, dtype=torch.float64), torch.Generator().manual_seed(0)
    numbers = np.random.default_rng(0)
    found: dict[str, Callable[[], Any]] = {
        "cai": lambda: sampler.draw(sampler.problem.start, plan, 0, draws),
        "loop": lambda: loop.path_integral(np.zeros(LOOKAHEAD), NOISE * numbers.normal(size=(SAMPLES, LOOKAHEAD)), 1.0),
    }
    try:
        from pytorch_mppi import MPPI
    except ImportError:
        return found
    zero = torch.zeros(1, dtype=torch.float64)
    peer = MPPI(
        lambda state, action: model.dynamics(state, action, 0),
        lambda state, action: -model.reward(state, action, 0),
        2,
        NOISE**2 * torch.eye(1, dtype=torch.float64),
        num_samples=SAMPLES,
        horizon=LOOKAHEAD,
        lambda_=1.0,
        device="cpu",
        u_init=zero,
        noise_mu=zero,
        terminal_state_cost=lambda states, actions: -model.final_reward(states[..., -1, :]),
    )
    return found | {"pytorch_mppi": lambda: peer.command(sampler.problem.start)}


def _regulators() -> dict[str, Callable[[], Any]]:
    model, loop = build_model("pendulum"), LoopedPendulum()
    found: dict[str, Callable[[], Any]] = {}
    for name, restarts in (("cai", 1), ("cai, 8 trajectories", 8)):
        search = IterativeLQR(restarts=restarts).learner(model)
        state = search.init(model, seed=0)
        found[name] = lambda search=search, state=state: search.step(state)
    actions = search.init(model, seed=0).actions[0, :, 0].numpy()
    states, _ = loop.rollout(actions)
    return found | {"loop": lambda: loop.improved(states, actions)}


def measured(rounds: int) -> list[dict[str, Any]]:
    """Rows of work, contender and the median of its CPU time in milliseconds; contenders take turns."""
    calls = contenders()
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    with torch.no_grad():
        for turn in range(rounds + 1):
            for key, call in calls.items():
                begin = time.process_time()
                call()
                if turn:  # the first call warms up
                    times[key].append(time.process_time() - begin)
    rows = [{"work": work, "contender": name, "ms": 1e3 * float(np.median(times[work, name]))} for work, name in calls]
    own = {row["work"]: row["ms"] for row in rows if row["contender"] == "cai"}
    return [row | {"cai over it": own[row["work"]] / row["ms"]} for row in rows]


def main() -> None:
    """Measures, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="calls of each contender")
    parser.add_argument("--out", type=Path, default=None, help="a JSON file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measured(options.rounds)
    for row in rows:
        print(f"{row['work']:16} {row['contender']:22} {row['ms']:9.2f} ms   cai over it {row['cai over it']:6.2f}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
