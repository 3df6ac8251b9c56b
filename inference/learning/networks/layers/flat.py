"""Multilayer perceptrons whose parameters are one flat tensor, so that Adam and running means are one operation."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Adam", "Perceptron"]


@dataclass(frozen=True)
class Perceptron:
    """Affine layers with rectified linear units between them; several of one shape are computed at once.

    Args:
        sizes: of the input, the hidden layers and the output.
        copies: C, how many networks of this shape there are.
    """

    sizes: tuple[int, ...]
    copies: int = 1

    @property
    def number(self) -> int:
        """Of all parameters."""
        return sum(self._lengths)

    def start(self, generator: torch.Generator) -> Tensor:
        """[P], parameters drawn uniformly within 1 / sqrt(inputs) of 0, layer by layer."""
        parts = []
        for before, after in zip(self.sizes, self.sizes[1:], strict=False):
            drawn = torch.rand(self.copies * (before + 1) * after, generator=generator, dtype=torch.float32)
            parts.append((2 * drawn - 1) / math.sqrt(before))
        return torch.cat(parts)

    def layers(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights [C, i, o] and biases [C, 1, o] of each layer, views of the flat tensor [P].

        Those of one network are [i, o] and [1, o].
        """
        parts = torch.split_with_sizes(flat, self._lengths)
        shaped = [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
        return list(zip(shaped[::2], shaped[1::2], strict=True))

    @functools.cached_property
    def _shapes(self) -> list[tuple[int, ...]]:
        """Of weights and biases in their order."""
        copies = () if self.copies == 1 else (self.copies,)
        pairs = zip(self.sizes, self.sizes[1:], strict=False)
        return [(*copies, rows, o) for i, o in pairs for rows in (i, 1)]

    @functools.cached_property
    def _lengths(self) -> list[int]:
        return [math.prod(shape) for shape in self._shapes]

    def __call__(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [C, B, o] of inputs [B, i], or [C, B, i]; [B, o] where there is one network."""
        if not torch.is_grad_enabled():
            return self.passed(self.layers(flat), inputs)[-1]
        found: Tensor = _Passed.apply(self, flat, inputs)
        return found

    def passed(self, layers: list[tuple[Tensor, Tensor]], inputs: Tensor) -> list[Tensor]:
        """What goes into each layer, and last what comes out."""
        *hidden, (weight, bias) = layers
        if self.copies == 1:
            found = [inputs]
            for w, b in hidden:
                found.append(torch.addmm(b, found[-1], w).relu_())
            return [*found, torch.addmm(bias, found[-1], weight)]
        found = [inputs if inputs.dim() == 3 else inputs.expand(self.copies, *inputs.shape)]
        for w, b in hidden:
            found.append(torch.baddbmm(b, found[-1], w).relu_())
        # the last layer has few columns, of which a batched product makes slow work
        last = found[-1].new_empty(self.copies, found[-1].shape[1], self.sizes[-1])
        for c in range(self.copies):
            torch.addmm(bias[c], found[-1][c], weight[c], out=last[c])
        return [*found, last]


class _Passed(torch.autograd.Function):
    """A perceptron, whose gradient is worked out here, once and no further: autograd has a node for each view.

    A layer y = relu(x W + b) passes the slope g of y on as h W', where h is g where y > 0, else 0; W has the slope x' h
    and b the sum of h over the batch.
    """

    @staticmethod
    def forward(ctx: Any, network: Perceptron, flat: Tensor, inputs: Tensor) -> Tensor:
        layers = network.layers(flat)
        *seen, found = network.passed(layers, inputs)
        ctx.network, ctx.layers, ctx.spread = network, layers, inputs.dim() < found.dim()
        ctx.save_for_backward(flat, *seen)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        flat, *seen = ctx.saved_tensors
        _, learns, moves = ctx.needs_input_grad
        gradient = torch.empty_like(flat) if learns else None
        parts = ctx.network.layers(gradient) if learns else ctx.layers
        product = torch.mm if ctx.network.copies == 1 else torch.bmm
        for place in range(len(seen) - 1, -1, -1):
            weight, narrow = ctx.layers[place][0], ctx.network.sizes[place + 1] == 1
            if learns and narrow:  # the same as below, ten times as fast for one column
                product(slope.mT, seen[place], out=parts[place][0].mT)
            elif learns:
                product(seen[place].mT, slope, out=parts[place][0])
            if learns:
                torch.sum(slope, -2, keepdim=True, out=parts[place][1])
            if place or moves:
                slope = slope * weight.mT if narrow else product(slope, weight.mT)
            if place:
                slope = torch.ops.aten.threshold_backward(slope, seen[place], 0)
        return None, gradient, (slope.sum(0) if ctx.spread else slope) if moves else None


class Adam:
    """Adam (Kingma and Ba 2015) on one flat parameter, whose moments can be stored.

    Args:
        flat: [P], changed in place.
        learning_rate: of every step.
    """

    def __init__(self, flat: Tensor, learning_rate: float) -> None:
        self.flat, self._rate = flat.requires_grad_(True), learning_rate
        self._step = torch.zeros((), dtype=torch.float32)
        self._mean, self._square = torch.zeros_like(flat.detach()), torch.zeros_like(flat.detach())

    def descend(self, loss: Tensor, *, keep: bool = False) -> None:
        """A step down the gradient of a loss.

        Args:
            loss: 0-dim.
            keep: whether another network is to step down the same loss.
        """
        (gradient,) = torch.autograd.grad(loss, [self.flat], retain_graph=keep)
        with torch.no_grad():  # what torch.optim.Adam calls, without its bookkeeping: a tenth of a learner's step
            self._step += 1
            torch._fused_adam_(
                [self.flat],
                [gradient],
                [self._mean],
                [self._square],
                [],
                [self._step],
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=self._rate,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Parameters and moments by name, the tensors themselves."""
        state = {"step": self._step, "exp_avg": self._mean, "exp_avg_sq": self._square}
        return {name: self.flat.data, **{f"{name}.{part}": value for part, value in state.items()}}
