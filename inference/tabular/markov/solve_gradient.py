"""Gradients of solutions of linear systems: a backward pass is one more solve, with the other side of the matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.inference.core.status import NotKnown
from cai.inference.tabular.markov.iterated import ROUND_STEPS, ROUNDS

__all__ = ["ORDERS", "Again", "Solve"]

ORDERS = 2  # of derivatives that the values of an infinite horizon have


class Again(torch.autograd.Function):
    """A tensor itself, whose slope counts from the first backward pass on that is recorded, to be differentiated again.

    For what a first derivative does not depend on, though it would take another solve to find that out. What it would
    be wrong for, derivatives of an order above `ORDERS`, raises NotKnown.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.counts = False
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor | None:
        ctx.counts = ctx.counts or torch.is_grad_enabled()
        return _Counted.apply(slopes[0], 1) if ctx.counts else None


class _Counted(torch.autograd.Function):
    """A slope itself, which knows how often it was differentiated."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, order: int) -> Tensor:
        ctx.order = order
        return slope.view_as(slope)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        if ctx.order >= ORDERS:
            raise NotKnown(
                "third derivatives",
                "an answer over an infinite horizon",
                "take differences of the second ones, or give a finite horizon",
            )
        return _Counted.apply(slopes[0], ctx.order + 1), None


class Solve(torch.autograd.Function):
    """x = (I - M)^-1 b; its backward pass is made of solves, so it can be differentiated again."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, sides: Tensor, system: Any, transposed: bool) -> Tensor:
        found = system.answer(sides.detach().cpu().numpy(), transposed)
        if found is None:
            raise ArithmeticError(
                f"(I - M) x = b over {system.pattern.number} unknowns is too large to factorise, and its iteration "
                f"did not settle in {ROUNDS} rounds of {ROUND_STEPS} steps; give a lower discount, or a finite horizon"
            )
        solution = torch.from_numpy(np.ascontiguousarray(found)).to(sides.device)
        ctx.system, ctx.transposed = system, transposed
        ctx.save_for_backward(weights, solution)
        return solution

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        weights, solution = ctx.saved_tensors
        adjoint: Tensor = Solve.apply(weights, slopes[0], ctx.system, not ctx.transposed)
        if not ctx.needs_input_grad[0]:
            return None, adjoint, None, None
        rows, columns = ctx.system.pattern.rows, ctx.system.pattern.columns
        left, right = (solution, adjoint) if ctx.transposed else (adjoint, solution)
        return (left[rows] * right[columns]).sum(-1), adjoint, None, None
