"""What enumeration asks of a model or a program: an end, discrete sites, and tables that fit into memory."""

from __future__ import annotations

from cai.models.programs.inspect import ProgramInfo
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["ENUMERATION_BYTES", "check_enumerable", "check_program", "table_bytes"]

ENUMERATION_BYTES = 2**30  # of one enumerated table over (s_t, a_t, s_{t+1}), up to which programs are enumerated


def check_enumerable(model: TrajectoryModel, backend: str, instead: str) -> None:
    """Refuses a model that is too large to enumerate, naming the bytes, or that has no end."""
    if not model.is_finite:
        raise ValueError(f"backend {backend!r} runs the program, which needs a finite horizon; use {instead}")
    if model.dense_bytes > ENUMERATION_BYTES:
        raise ValueError(
            f"backend {backend!r} enumerates tables over (s_t, a_t, s_{{t+1}}): each of this model takes "
            f"{model.dense_bytes:,} bytes, more than {ENUMERATION_BYTES:,}; use {instead}, which never makes them"
        )


def check_program(info: ProgramInfo, backend: str) -> None:
    """Refuses a program with latents that cannot be enumerated, or too large a step."""
    if info.continuous:
        raise ValueError(
            f"backend {backend!r} enumerates every latent, and {info.continuous[0]!r} is continuous or not a scalar; "
            "make it discrete, or use 'smc', which draws"
        )
    needed = table_bytes(info)
    if needed > ENUMERATION_BYTES:
        raise ValueError(
            f"backend {backend!r} enumerates tables over (s_t, a_t, s_{{t+1}}): each of this program takes {needed:,} "
            f"bytes, more than {ENUMERATION_BYTES:,}; make the state space smaller, or write it as a TrajectoryModel"
        )


def table_bytes(info: ProgramInfo) -> int:
    """The bytes of one table over (s_t, a_t, s_{t+1})."""
    return 8 * info.num_states**2 * info.num_actions
