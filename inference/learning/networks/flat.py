"""Multilayer perceptrons whose parameters are one flat tensor, so that Adam and running means are one operation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

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
        return self.copies * sum(
            (before + 1) * after for before, after in zip(self.sizes, self.sizes[1:], strict=False)
        )

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
        shapes = [(self.copies, i, o) for i, o in zip(self.sizes, self.sizes[1:], strict=False)]
        parts = flat.split([size for c, i, o in shapes for size in (c * i * o, c * o)])
        return [
            (weight.view(c, i, o), bias.view(c, 1, o))
            for (c, i, o), weight, bias in zip(shapes, parts[::2], parts[1::2], strict=True)
        ]

    def __call__(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [C, B, o] of inputs [B, i], or [C, B, i]; [B, o] where there is one network."""
        layers = self.layers(flat)
        if self.copies == 1:
            for weight, bias in layers[:-1]:
                inputs = torch.addmm(bias[0], inputs, weight[0]).relu_()
            weight, bias = layers[-1]
            return torch.addmm(bias[0], inputs, weight[0])
        inputs = inputs if inputs.dim() == 3 else inputs.expand(self.copies, *inputs.shape)
        for weight, bias in layers[:-1]:
            inputs = torch.baddbmm(bias, inputs, weight).relu_()
        weight, bias = layers[-1]  # of few columns, of which a batched product makes slow work
        return torch.stack([torch.addmm(bias[c], inputs[c], weight[c]) for c in range(self.copies)])


class Adam:
    """Adam (Kingma and Ba 2015) on one flat parameter, whose moments can be stored.

    Args:
        flat: [P], changed in place.
        learning_rate: of every step.
    """

    def __init__(self, flat: Tensor, learning_rate: float) -> None:
        self.flat = flat.requires_grad_(True)
        self._optimizer = torch.optim.Adam([self.flat], lr=learning_rate, fused=True)
        self._optimizer.state[self.flat] = {
            "step": torch.zeros((), dtype=torch.float32),
            "exp_avg": torch.zeros_like(flat, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(flat, requires_grad=False),
        }

    def descend(self, loss: Tensor, *, keep: bool = False) -> None:
        """A step down the gradient of a loss.

        Args:
            loss: 0-dim.
            keep: whether another network is to step down the same loss.
        """
        (self.flat.grad,) = torch.autograd.grad(loss, [self.flat], retain_graph=keep)
        self._optimizer.step()
        self.flat.grad = None

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Parameters and moments by name, the tensors themselves."""
        state = self._optimizer.state[self.flat]
        return {name: self.flat.data, **{f"{name}.{part}": value for part, value in state.items()}}
