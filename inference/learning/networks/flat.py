"""Multilayer perceptrons whose parameters are one flat tensor, so that Adam and running means are one operation."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

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

        They are taken by one split, whose gradient is one tensor; that of slices is a whole [P] for each of them.
        """
        parts = [part.view(shape) for part, shape in zip(flat.split(self._lengths), self._shapes, strict=True)]
        return list(zip(parts[::2], parts[1::2], strict=True))

    @functools.cached_property
    def _shapes(self) -> list[tuple[int, int, int]]:
        """Of weights and biases in their order."""
        pairs = zip(self.sizes, self.sizes[1:], strict=False)
        return [(self.copies, rows, o) for i, o in pairs for rows in (i, 1)]

    @functools.cached_property
    def _lengths(self) -> list[int]:
        return [math.prod(shape) for shape in self._shapes]

    def __call__(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [C, B, o] of inputs [B, i], or [C, B, i]; [B, o] where there is one network."""
        layers = self.layers(flat)
        if self.copies == 1:
            for weight, bias in layers[:-1]:
                inputs = torch.addmm(bias.squeeze(0), inputs, weight.squeeze(0)).relu_()
            weight, bias = layers[-1]
            return torch.addmm(bias.squeeze(0), inputs, weight.squeeze(0))
        inputs = inputs if inputs.dim() == 3 else inputs.expand(self.copies, *inputs.shape)
        for weight, bias in layers[:-1]:
            inputs = torch.baddbmm(bias, inputs, weight).relu_()
        # the last layer has few columns, of which a batched product makes slow work; the gradient of `unbind` is one
        # tensor, that of indices a tensor of zeros for each
        each = zip(*(part.unbind() for part in (layers[-1][1], inputs, layers[-1][0])), strict=True)
        return torch.stack([torch.addmm(*parts) for parts in each])


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
            adam(
                [self.flat],
                [gradient],
                [self._mean],
                [self._square],
                [],
                [self._step],
                fused=True,
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
