"""Linear-quadratic problems: `cai`'s messages beside a plain numpy loop, in CPU time, one thread, in one run.

    python -m benchmarks.gaussian [--quick] [--out FILE]

256 problems of 12 state and 4 action coordinates over 100 steps, each with matrices of its own. What is timed is a
backward pass: gains by the textbook's Riccati recursion in numpy, and by `cai` gains alone, then with affine terms and
evidence, then the exact posterior's. A smoother of as many chains is held against the recursions of Kalman and of
Rauch, Tung and Striebel in numpy, and against dynamax where it is installed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cai.inference import kalman_smoother
from cai.inference.gaussian.existence import first_failure
from cai.inference.gaussian.messages import Messages, backward
from cai.inference.gaussian.problem import GaussianProblem, Quadratic

__all__ = ["main", "run"]

TARGETS = {
    "gains over the numpy loop": 1.5,
    "affine terms and evidence over the numpy loop": 3.0,
    "exact over fixed dynamics": 2.0,
    "smoother over dynamax": 1.0,
}


@dataclass(frozen=True, eq=False)
class Batch:
    """N problems, as numpy arrays.

    Attributes:
        A: [N, n, n].
        B: [N, n, m].
        W: [n, n].
        Q: [n, n].
        R: [m, m].
        c: [n], the offset of the dynamics where there are affine terms.
        g: [n + m], the linear cost likewise.
        horizon: T.
    """

    A: np.ndarray
    B: np.ndarray
    W: np.ndarray
    Q: np.ndarray
    R: np.ndarray
    c: np.ndarray
    g: np.ndarray
    horizon: int


def make_batch(number: int = 256, n: int = 12, m: int = 4, horizon: int = 100, seed: int = 0) -> Batch:
    """Random problems, stable enough that no number leaves its range."""
    rng = np.random.default_rng(seed)
    A = 0.8 * np.eye(n) + rng.normal(size=(number, n, n)) * 0.05
    B, noise = rng.normal(size=(number, n, m)), rng.normal(size=(n, n))
    W = noise @ noise.T / n * 0.1
    return Batch(A, B, W, np.eye(n), np.eye(m), 0.1 * rng.normal(size=n), 0.1 * rng.normal(size=n + m), horizon)


def numpy_gains(batch: Batch) -> list[np.ndarray]:
    """The gains [N, m, n] of each step, from the end, as a lecture writes the recursion for many problems."""
    A, B, P, gains = batch.A, batch.B, np.broadcast_to(batch.Q, batch.A.shape), []
    At, Bt = A.transpose(0, 2, 1), B.transpose(0, 2, 1)
    for _ in range(batch.horizon):
        PB = P @ B
        K = -np.linalg.solve(batch.R + Bt @ PB, PB.transpose(0, 2, 1) @ A)
        P = batch.Q + At @ P @ (A + B @ K)
        P = (P + P.transpose(0, 2, 1)) / 2
        gains.append(K)
    return gains


def as_problem(batch: Batch, *, affine: bool) -> GaussianProblem:
    """The same as `cai` reads it, with a flat prior, and with affine terms if wanted."""
    n, m = batch.B.shape[-2:]
    tensor = torch.as_tensor
    cost = np.block([[batch.Q, np.zeros((n, m))], [np.zeros((m, n)), batch.R]])
    return GaussianProblem(
        A=tensor(batch.A)[:, None],
        B=tensor(batch.B)[:, None],
        offset=tensor(batch.c * affine)[None],
        noise=tensor(batch.W)[None],
        cost=tensor(cost)[None],
        linear=tensor(batch.g * affine)[None],
        constant=torch.zeros(1, dtype=torch.float64),
        final=Quadratic(tensor(batch.Q), torch.zeros(n).double(), torch.zeros(()).double()),
        mean=torch.zeros(n, dtype=torch.float64),
        covariance=torch.eye(n, dtype=torch.float64),
        horizon=batch.horizon,
        temperature=torch.ones((), dtype=torch.float64),
    )


def answered(problem: GaussianProblem, eta: float) -> Messages:
    """Messages whose existence was checked, as a backend passes them."""
    messages = backward(problem, eta)
    if first_failure(problem, messages) is not None:
        raise RuntimeError("the benchmark's problem has no finite value")
    return messages


def numpy_smoother(batch: Batch, y: np.ndarray, C: np.ndarray, V: np.ndarray) -> np.ndarray:
    """[T, N, n], smoothed means, by Kalman's recursion and that of Rauch, Tung and Striebel."""
    A, n = batch.A, batch.A.shape[-1]
    At = A.transpose(0, 2, 1)
    mean, cov = np.zeros((len(A), n)), np.broadcast_to(np.eye(n), A.shape)
    means, covs, before, spreads = [], [], [], []
    for t in range(y.shape[1]):
        if t:
            mean, cov = (A @ mean[..., None])[..., 0], A @ cov @ At + batch.W
            before.append(mean)
            spreads.append(cov)
        CS = C @ cov
        gain = np.linalg.solve(CS @ C.T + V, CS).transpose(0, 2, 1)
        mean = mean + (gain @ (y[:, t] - mean @ C.T)[..., None])[..., 0]
        cov = cov - gain @ CS
        means.append(mean)
        covs.append(cov)
    smooth = [means[-1]]
    spread = covs[-1]
    for t in reversed(range(y.shape[1] - 1)):
        back = np.linalg.solve(spreads[t], A @ covs[t]).transpose(0, 2, 1)
        smooth.append(means[t] + (back @ (smooth[-1] - before[t])[..., None])[..., 0])
        spread = covs[t] + back @ (spread - spreads[t]) @ back.transpose(0, 2, 1)
    return np.stack(smooth[::-1])


def dynamax_smoother(batch: Batch, y: np.ndarray, C: np.ndarray, V: np.ndarray) -> Callable[[], Any]:
    """The smoother of dynamax under jit and vmap, compiled.

    Raises:
        ImportError: if it is not installed.
    """
    import jax
    from dynamax.linear_gaussian_ssm import LinearGaussianSSM, lgssm_smoother

    jax.config.update("jax_enable_x64", True)
    n, d = batch.A.shape[-1], len(C)
    chain = LinearGaussianSSM(n, d)
    fixed = {"emission_weights": C, "emission_covariance": V, "dynamics_covariance": batch.W}
    start = {"initial_mean": np.zeros(n), "initial_covariance": np.eye(n)}

    @jax.jit
    def smooth(matrices: Any, seen: Any) -> Any:
        def one(A: Any, series: Any) -> Any:
            parameters, _ = chain.initialize(dynamics_weights=A, **fixed, **start)
            return lgssm_smoother(parameters, series).smoothed_means

        return jax.vmap(one)(matrices, seen)

    return lambda: smooth(batch.A, y).block_until_ready()


def run(*, quick: bool = False, rounds: int = 7) -> dict[str, Any]:
    """Times every job in turns.

    Args:
        quick: eight problems over ten steps, to see that it runs.
        rounds: how often each is called; the least CPU time counts.

    Returns:
        Seconds by job, ratios with their targets, the largest difference from the numpy loops relative to the largest
        number, and notes on peers that are not installed.
    """
    torch.set_num_threads(1)
    batch = make_batch(8, 4, 2, 10) if quick else make_batch()
    plain, affine = as_problem(batch, affine=False), as_problem(batch, affine=True)
    rng = np.random.default_rng(1)
    n = batch.A.shape[-1]
    C, V = rng.normal(size=(3, n)), 0.5 * np.eye(3)
    y = rng.normal(size=(len(batch.A), batch.horizon, 3))
    chain = {"noise": batch.W, "observation_noise": V, "initial": (np.zeros(n), np.eye(n))}
    A = torch.as_tensor(batch.A)[:, None]
    jobs: dict[str, Callable[[], Any]] = {
        "numpy loop": lambda: numpy_gains(batch),
        "cai, gains": lambda: answered(plain, 0.0),
        "cai, affine terms and evidence": lambda: answered(affine, 0.0),
        "cai, exact with affine terms": lambda: answered(affine, 1.0),
        "numpy smoother": lambda: numpy_smoother(batch, y, C, V),
        "cai, smoother": lambda: kalman_smoother(y, A, C, **chain),
    }
    notes = ["trajax, mpc.pytorch and crocoddyl were not timed: the pinned extra does not hold them"]
    try:
        jobs["dynamax, smoother"] = dynamax_smoother(batch, y, C, V)
    except ImportError as error:
        notes.append(f"dynamax was not timed: {error}")
    with torch.no_grad():
        expected = np.stack(numpy_gains(batch)[::-1], 1)
        apart = np.abs(answered(plain, 0.0).gain.numpy() - expected).max() / np.abs(expected).max()
        smooth = numpy_smoother(batch, y, C, V).transpose(1, 0, 2)
        miss = np.abs(kalman_smoother(y, A, C, **chain).means.numpy() - smooth).max() / np.abs(smooth).max()
        apart = max(apart, miss)
        seconds = {name: float("inf") for name in jobs}
        for _ in range(rounds):
            for name, call in jobs.items():
                begin = time.process_time()
                call()
                seconds[name] = min(seconds[name], time.process_time() - begin)
    fixed = seconds["cai, affine terms and evidence"]
    ratios = {
        "gains over the numpy loop": seconds["cai, gains"] / seconds["numpy loop"],
        "affine terms and evidence over the numpy loop": fixed / seconds["numpy loop"],
        "exact over fixed dynamics": seconds["cai, exact with affine terms"] / fixed,
        "smoother over the numpy loops": seconds["cai, smoother"] / seconds["numpy smoother"],
    }
    if "dynamax, smoother" in seconds:
        ratios["smoother over dynamax"] = seconds["cai, smoother"] / seconds["dynamax, smoother"]
    rows = [{"job": name, "ratio": value, "target": TARGETS.get(name)} for name, value in ratios.items()]
    return {"seconds": seconds, "ratios": rows, "difference": float(apart), "notes": notes}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small problems, to see that it runs")
    parser.add_argument("--out", type=Path, help="where to write the numbers as JSON")
    given = parser.parse_args(arguments)
    found = run(quick=given.quick)
    for name, value in found["seconds"].items():
        print(f"{name:45} {1000 * value:9.2f} ms")
    for row in found["ratios"]:
        target = "" if row["target"] is None else f"   target <= {row['target']:g}"
        print(f"{row['job']:45} {row['ratio']:9.2f} x{target}")
    print(f"largest difference from the numpy loops {found['difference']:.1e}")
    for note in found["notes"]:
        print(note)
    if given.out is not None:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
