"""A linear-Gaussian chain that is seen through noise: what was given, read, and what a step of a filter leaves."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cai.models.common.checks import float_tensor
from cai.models.continuous.matrices import SINGULAR, check_covariance, read_matrix

__all__ = ["Chain", "Seen", "read_chain", "read_sensor"]


class Chain(NamedTuple):
    """A chain that is seen at N times: matrices with a time axis (N, N - 1 or 1), and observations y [..., N, d]."""

    A: Tensor
    offset: Tensor
    noise: Tensor
    mean: Tensor
    covariance: Tensor
    y: Tensor
    sensor: Tensor
    sensor_noise: Tensor
    number: int


class Seen(NamedTuple):
    """One step of the filter: what is known after y_t, and how it came to it.

    Attributes:
        mean: [..., n].
        covariance: [..., n, n].
        likelihood: [...], log p(y_t | y_1 .. y_{t-1}).
        surprise: [..., d], y_t less what was expected.
        gain: [..., n, d].
        root: [..., d, d], the Cholesky factor of the covariance of the surprise.
        sensor: C_t [..., d, n].
        move: A [..., n, n] of the transition before; None at the first.
    """

    mean: Tensor
    covariance: Tensor
    likelihood: Tensor
    surprise: Tensor
    gain: Tensor
    root: Tensor
    sensor: Tensor
    move: Tensor | None


def read_chain(
    y: Any, A: Any, C: Any, noise: Any, observation_noise: Any, initial: tuple[Any, Any], offset: Any
) -> Chain:
    """What a user gives of a chain, as tensors; the arguments are those of `kalman_filter`.

    Raises:
        TypeError, ValueError: naming what does not fit.
    """
    seen, _ = float_tensor(y, "y")
    if seen.dim() < 2 or seen.shape[-2] < 1:
        raise ValueError(f"y has shape {list(seen.shape)}; expected [..., N, d], N observations of d numbers")
    if not bool(torch.isfinite(seen.detach()).all()):
        raise ValueError("y holds NaN or inf; give finite numbers, and leave out what was not observed")
    if not isinstance(initial, (tuple, list)) or len(initial) != 2:
        raise ValueError("initial is no pair; give (m1, S1), the mean [n] and the covariance [n, n] of s_1")
    number, n = seen.shape[-2], _rows(A, "A", "[n, n]")
    sizes, steps = {"n": n}, max(1, number - 1)
    transition, _ = read_matrix(A, "A", "n n", sizes, steps)
    sensor, V = read_sensor(C, observation_noise, seen.shape[-1], n, number)
    drift, _ = read_matrix(transition.new_zeros(n) if offset is None else offset, "offset", "n", sizes, steps)
    W, rounding = read_matrix(noise, "noise", "n n", sizes, steps)
    W = check_covariance(W, "noise", rounding, steps)
    mean, _ = read_matrix(initial[0], "the mean of initial", "n", sizes, None)
    covariance, rounding = read_matrix(initial[1], "the covariance of initial", "n n", sizes, None)
    covariance = check_covariance(covariance, "the covariance of initial", rounding, None)
    return Chain(_timed(transition, 2), _timed(drift, 1), _timed(W, 2), mean, covariance, seen, sensor, V, number)


def read_sensor(C: Any, observation_noise: Any, d: int | None, n: int, times: int) -> tuple[Tensor, Tensor]:
    """C [..., T or 1, d, n] and V [..., T or 1, d, d] of what is seen at some times; d is that of C unless given.

    Raises:
        TypeError, ValueError: naming the matrix, if a shape does not fit, or V is no covariance with an inverse.
    """
    sizes = {"d": _rows(C, "C", "[d, n]") if d is None else d, "n": n}
    sensor, _ = read_matrix(C, "C", "d n", sizes, times)
    V, rounding = read_matrix(observation_noise, "observation_noise", "d d", sizes, times)
    V = check_covariance(V, "observation_noise", rounding, times)
    eigenvalues = torch.linalg.eigvalsh(V.detach())
    if bool((eigenvalues[..., 0] <= SINGULAR * eigenvalues[..., -1]).any()):
        raise ValueError(
            "observation_noise is singular, so some direction is seen exactly, and the observations have no density; "
            "add a little to its diagonal"
        )
    return _timed(sensor, 2), _timed(V, 2)


def _rows(matrix: Any, name: str, letters: str) -> int:
    """The length of the last axis but one."""
    shape = float_tensor(matrix, name)[0].shape
    if len(shape) < 2:
        raise ValueError(f"{name} has shape {list(shape)}; expected {letters}, or [..., T, {letters[1:]}")
    return int(shape[-2])


def _timed(part: Tensor, own: int) -> Tensor:
    """The part with an axis for time before its `own` axes."""
    return part if part.dim() > own else part[None]
