"""Torch modules as networks whose parameters are one flat tensor."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cai.inference.learning.networks.layers.flat import Perceptron

__all__ = ["FeatureNetwork", "ModuleNetwork"]


class ModuleNetwork:
    """A user's module, which is copied and stays as it is. Its buffers are constants, and it is in evaluation mode.

    Args:
        module: called with observations [N, ...], float32.
        shape: of an observation.
        name: the option that it was given for, in messages.
        outputs: the numbers that are expected for each observation; None where any will do.

    Attributes:
        outputs: k, the numbers that it returns for each observation.

    Raises:
        ValueError: if it fails on two observations, has no parameters, or returns something else than [2, k].
    """

    def __init__(self, module: nn.Module, shape: tuple[int, ...], name: str, outputs: int | None = None) -> None:
        self.module = copy.deepcopy(module).float().eval().requires_grad_(False)
        self.shape = shape
        self._shapes = {key: part.shape for key, part in self.module.named_parameters()}
        if not self._shapes:
            raise ValueError(f"the module of {name}= has no parameters, so there is nothing to learn; give another")
        self.outputs = self._tried(name, outputs)

    @property
    def number(self) -> int:
        """Of all parameters."""
        return sum(shape.numel() for shape in self._shapes.values())

    def start(self, generator: torch.Generator) -> Tensor:
        """[P], the parameters that the module was given with; nothing is drawn."""
        return torch.cat([part.detach().flatten() for part in self.module.parameters()])

    def __call__(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """[B, k], of observations as rows [B, n]."""
        parts = flat.split([shape.numel() for shape in self._shapes.values()])
        named = {key: part.view(shape) for (key, shape), part in zip(self._shapes.items(), parts, strict=True)}
        module = self.module if flat.dtype is torch.float32 else copy.deepcopy(self.module).to(flat.dtype)
        found: Tensor = functional_call(module, named, (inputs.reshape(-1, *self.shape),))
        return found

    def _tried(self, name: str, outputs: int | None) -> int:
        tried = torch.zeros(2, *self.shape, dtype=torch.float32)
        wanted = f"[2, {'k' if outputs is None else outputs}]"
        try:
            with torch.no_grad():
                found: Any = self.module(tried)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"the module of {name}= failed on two observations {list(tried.shape)}: {error}; it is called with "
                f"float32 observations [N, ...] as the world gives them, and returns {wanted}"
            ) from error
        fits = isinstance(found, Tensor) and found.dim() == 2 and len(found) == 2
        if not fits or (outputs is not None and found.shape[1] != outputs):
            got = list(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
            what = {
                "network": "features of each observation",
                "policy": "in a box, means and logs of standard deviations before tanh, else logits",
            }[name]
            raise ValueError(
                f"the module of {name}= returned {got} for two observations {list(tried.shape)}; expected {wanted}: "
                f"{what}"
            )
        return int(found.shape[1])


class FeatureNetwork:
    """A module that makes features of observations, and a perceptron of features and further inputs.

    Args:
        module: of observations; each copy of the perceptron has one of its own, which all begin alike.
        perceptron: one, or several at once.
    """

    def __init__(self, module: ModuleNetwork, perceptron: Perceptron) -> None:
        self.module, self.perceptron = module, perceptron
        self.copies, self.sizes = perceptron.copies, perceptron.sizes
        self._seen = int(torch.Size(module.shape).numel())

    @property
    def number(self) -> int:
        """Of all parameters."""
        return self.copies * self.module.number + self.perceptron.number

    def start(self, generator: torch.Generator) -> Tensor:
        """[P], first parameters."""
        return torch.cat([*[self.module.start(generator)] * self.copies, self.perceptron.start(generator)])

    def layers(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Those of the perceptron, views of the flat tensor."""
        return self.perceptron.layers(flat[self.copies * self.module.number :])

    def __call__(self, flat: Tensor, inputs: Tensor) -> Tensor:
        """Outputs [C, B, o] of inputs [B, n + i]; [B, o] where there is one network."""
        size, seen = self.module.number, inputs[:, : self._seen]
        rest = flat[self.copies * size :]
        given = [
            torch.cat([self.module(flat[c * size : (c + 1) * size], seen), inputs[:, self._seen :]], 1)
            for c in range(self.copies)
        ]
        return self.perceptron(rest, given[0] if self.copies == 1 else torch.stack(given))
