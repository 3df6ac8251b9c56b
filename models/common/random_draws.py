"""Random draws of one thread: what torch draws inside the block comes from generators of the block's own.

torch's default generator belongs to the process: seeding it and putting its state back would disturb other threads, and
they would disturb the draws. Both modes below are local to the thread that enters them.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverloadPacket
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cai.models.common.checks import whole_number

__all__ = ["GivenGenerator", "OwnDraws", "check_seed", "seeded", "without_draws"]


_QUIET = {"torch.functional", "torch._tensor"}  # modules whose functions, written in Python, do not draw


def check_seed(seed: Any) -> int:
    """The seed as Python's int, which is what generators take.

    Raises:
        ValueError: if it is no whole number from 0 to 2^63 - 1.
    """
    whole = seed if type(seed) is int else whole_number(seed)
    if whole is None or not 0 <= whole < 2**63:
        raise ValueError(f"seed is {seed!r}; give a whole number from 0 to 2^63 - 1")
    return whole


def seeded(seed: Any) -> torch.Generator:
    """A generator on the CPU that starts at a seed.

    Raises:
        ValueError: as `check_seed`.
    """
    return torch.Generator().manual_seed(check_seed(seed))


def without_draws() -> Any:
    """A block of code that draws nothing: inside `OwnDraws` its calls of torch cost what they do outside."""
    return torch._C.DisableTorchFunction()


class OwnDraws(TorchFunctionMode):
    """Inside the block, random functions of torch draw from a generator of the block's own.

    The numbers are those that `torch.manual_seed` gives for the same seed. A call that is given a generator keeps it;
    `torch.manual_seed` inside the block seeds the default generator, and so none of these draws.

    Args:
        source: the seed of the generators, one a device; or the generator to draw from.
        other: draws with their own generators, which stay what they are while they are made (`other.active`).
    """

    def __init__(self, source: int | torch.Generator = 0, other: GivenGenerator | None = None) -> None:
        super().__init__()
        self._dispatch, self._other = GivenGenerator(source), other

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        busy = self._other is not None and self._other.active
        if not busy and (func.__module__ not in _QUIET if isinstance(func, types.FunctionType) else _may_draw(func)):
            with self._dispatch:
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class GivenGenerator(TorchDispatchMode):
    """Gives every operator that draws a generator.

    Args:
        source: as for `OwnDraws`.

    Attributes:
        active: whether it is entered.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would wrap __torch_dispatch__ to hide it from torch.compile, and import all of that: 1.5 s

    def __init__(self, source: int | torch.Generator) -> None:
        super().__init__()
        self.active = False
        self.seed = source.initial_seed() if isinstance(source, torch.Generator) else source
        self.generators = {source.device: source} if isinstance(source, torch.Generator) else {}

    def __enter__(self) -> Any:
        self.active = True
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        self.active = False
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        seeded = _seeded_overload(func)
        if seeded is None or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        device = next((value.device for value in args if isinstance(value, Tensor)), kwargs.get("device"))
        return seeded(*args, **{**kwargs, "generator": self._generator(torch.device(device or "cpu"))})

    def _generator(self, device: torch.device) -> torch.Generator:
        device = torch.device("cpu") if device.type == "meta" else device  # which has no numbers to draw
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]


@functools.cache
def _may_draw(func: Any) -> bool:
    """Whether a function of torch's C++ interface draws, by the tags of its operator."""
    packet = getattr(torch.ops.aten, getattr(func, "__name__", ""), None)
    if not isinstance(packet, OpOverloadPacket):
        return False
    return any(torch.Tag.nondeterministic_seeded in getattr(packet, name).tags for name in packet.overloads())


@functools.cache
def _seeded_overload(func: Any) -> Any:
    """The overload of an operator that takes a generator; None if the operator does not draw."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return None
    name = "generator" if func._overloadname == "default" else f"{func._overloadname}_generator"
    return getattr(func.overloadpacket, name, None)
