"""The backward pass and the forward sweep that a kernel asks for."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from cai.inference.kernels.native.passes import NativePass, NativeSweep
from cai.inference.kernels.soft_backward import SoftPass
from cai.inference.kernels.soft_forward import SoftSweep
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["make_pass", "make_sweep"]


def make_pass(
    model: TrajectoryModel, kind: Literal["fixed", "exact"], *, kernel: str = "auto", **options: Any
) -> SoftPass:
    """A backward pass: see `SoftPass`, of which the kernels that fuse whole steps have their own.

    Args:
        model: the trajectory model.
        kind: which backup.
        kernel: see `cai.inference.kernels.choose`.
        **options: as for `SoftPass`.

    Raises:
        ValueError: if the kernel does not fit.
        RuntimeError: if it has to be built and cannot be.
    """
    made = NativePass if kernel == "native" else SoftPass
    return made(model, kind, kernel=kernel, **options)


def make_sweep(soft: SoftPass, kept: Tensor, times: list[int], levels: list[float] | None = None) -> SoftSweep:
    """The forward sweep of a pass: see `SoftSweep`."""
    if isinstance(soft, NativePass):
        return NativeSweep(soft, kept, times, levels)
    return SoftSweep(soft, kept, times, levels)
