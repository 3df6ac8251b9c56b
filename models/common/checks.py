"""Checks at the door: arrays become float64 tensors once, and bad ones are refused with what to do."""

from __future__ import annotations

import logging
import math
import numbers
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.models.common.labels import axis_labels, by_name, mask_by_name, refuse_labels
from cai.models.common.names import did_you_mean

__all__ = [
    "FORGOTTEN",
    "MENDS",
    "PLAIN",
    "check_distribution",
    "check_shape",
    "first_index",
    "float_tensor",
    "index_tensor",
    "start_distribution",
    "state_mask",
    "whole_horizon",
    "whole_number",
]

PLAIN = (Tensor, np.ndarray, list, tuple)  # tables that cannot have labels
MENDS = ", or let normalize=True do it"

# A row of probabilities may miss 1 by this much before it is refused; it is then divided by its sum. Rounding in
# float64 sums of 1e5 terms stays far below the first, and probabilities that were float32 once below the second: their
# rows are known by entries that float32 holds to the last bit.
logger = logging.getLogger("cai.models")


class _Forgotten(int):
    """The horizon of who gave none: it is used, and named."""


FORGOTTEN = _Forgotten(20)

ROW_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


def float_tensor(
    values: Any, name: str, axes: Sequence[tuple[Sequence[str] | None, str] | None] = ()
) -> tuple[Tensor, torch.dtype]:
    """Converts to a float64 tensor on the CPU, which keeps its autograd history.

    Args:
        values: a tensor, an array or nested sequences of real numbers; or, with `axes`, a labelled table.
        name: how the argument is called in the message.
        axes: by which labels are put in order, as `by_name` takes them.

    Returns:
        The tensor, and the dtype that it had (which says how exact its entries can be).

    Raises:
        TypeError: if the entries are no real numbers.
        ValueError: if nested sequences are ragged, or labels are not those of `axes`.
    """
    if axes and not isinstance(values, PLAIN):
        values = by_name(values, axes, name)
    if not isinstance(values, (Tensor, np.ndarray)):
        refuse_labels(values, name)
    if isinstance(values, Mapping):
        raise TypeError(f"{name} is a {type(values).__name__}, whose keys would be ignored; give its values in order")
    if isinstance(values, Tensor):
        tensor = values if values.layout == torch.strided else values.to_dense()
    else:
        try:
            array = np.array(values)  # a copy, as some libraries hand out what cannot be written to
        except ValueError:
            raise ValueError(f"{name} is ragged; give rows of equal length: pad the short ones") from None
        except RuntimeError:  # tensors in lists that require grad
            tensor = _stacked(values, name)
        else:
            if array.dtype.kind not in "fiub":
                entries = array.reshape(-1).tolist() if array.dtype.kind == "O" else []
                odd = [f" such as {item!r:.40}" for item in entries if not isinstance(item, numbers.Real)]
                if odd or not entries:
                    raise TypeError(f"{name} holds {array.dtype} entries{''.join(odd[:1])}; expected real numbers")
            tensor = torch.as_tensor(array.astype(float) if array.dtype.kind == "O" else array)
    if tensor.is_complex():
        raise TypeError(f"{name} has dtype {tensor.dtype}; expected real numbers: pass its real part")
    # A copy: what was checked must not change behind our back.
    return tensor.to("cpu", torch.float64, copy=True), tensor.dtype


def _stacked(values: Any, name: str) -> Tensor:
    """A tensor of nested lists of tensors, with their history."""
    if not isinstance(values, Sequence):
        return torch.as_tensor(values)
    parts = [_stacked(item, name) for item in values]
    if len({part.shape for part in parts}) > 1:
        raise ValueError(f"{name} is ragged; give rows of equal length: pad the short ones")
    return torch.stack(parts)


def index_tensor(values: Any, name: str) -> Tensor:
    """Converts to an int64 tensor of its own; refuses anything that is not whole numbers."""
    refuse_labels(values, name)
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    untyped = array.size == 0 and isinstance(values, list | tuple)  # numpy takes what is empty for floats
    if array.dtype.kind not in "iu" and not untyped:
        raise TypeError(f"{name} has dtype {array.dtype}; expected whole numbers: convert with .astype(int) or .long()")
    return torch.as_tensor(array.astype(np.int64))


def check_shape(tensor: Tensor, shape: tuple[int | None, ...], name: str, letters: str) -> None:
    """Refuses a tensor whose shape is not `shape` (None matches any size); `letters` is how the shape is written."""
    fits = tensor.dim() == len(shape) and all(
        want in (None, got) for want, got in zip(shape, tensor.shape, strict=True)
    )
    if not fits:
        want = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} has shape {list(tensor.shape)}; expected {letters} = [{want}]")


def first_index(mask: Tensor) -> str:
    """The first true entry of a mask, written as an index."""
    return "[" + ", ".join(str(i) for i in torch.nonzero(mask)[0].tolist()) + "]"


def check_distribution(
    probabilities: Tensor,
    name: str,
    source: torch.dtype,
    rows: Tensor | None = None,
    miss: float | None = None,
    hint: str = "",
) -> Tensor:
    """Validates probabilities along the last axis and returns them divided by their sums.

    Args:
        probabilities: [..., N].
        name: how the argument is called in messages.
        source: the dtype that the user gave, which sets how far a row may miss 1.
        rows: [...] bool, which rows must sum to 1 (all, unless given).
        miss: how far a row may miss 1, in place of that.
        hint: what else can be done about a row that misses 1, for the message.

    Raises:
        ValueError: on NaN, infinite or negative entries, and on rows that do not sum to 1.
    """
    values = probabilities.detach()
    if not torch.isfinite(values).all():
        where = first_index(~torch.isfinite(values))
        raise ValueError(f"{name}{where} is not finite; probabilities must be numbers from 0 to 1")
    if (values < 0).any():
        where = first_index(values < 0)
        worst = values.min().item()
        raise ValueError(f"{name}{where} is negative (the smallest entry is {worst:.3g}); probabilities must be >= 0")
    sums = values.sum(-1)
    wrong = (sums - 1).abs() > (ROW_TOLERANCE.get(source, 1e-9) if miss is None else miss)
    if rows is not None:
        wrong = wrong & rows
    if wrong.any() and source == torch.float64:
        single = (values == values.float()).all(-1)
        wrong = wrong & ~(single & ((sums - 1).abs() <= ROW_TOLERANCE[torch.float32]))
    if wrong.any():
        at = tuple(torch.nonzero(wrong)[0].tolist())
        hint = hint if miss is None and (sums[at] - 1).abs() <= 1e-4 else ""
        where = first_index(wrong) if wrong.dim() else ""
        raise ValueError(
            f"{name}{where} sums to {sums[at].item():.10g}, not to 1; divide each row by its sum, "
            f"or add the missing outcome{hint}"
        )
    # Rows that are as close to 1 as rounding allows stay as they are, so that checking twice changes nothing.
    divides = ((sums - 1).abs() > 8 * torch.finfo(torch.float64).eps) & (sums > 0)
    if not divides.any():
        return probabilities
    return probabilities / torch.where(divides[..., None], probabilities.sum(-1, keepdim=True), 1.0)


def some_names(names: Sequence[str]) -> str:
    """The first few names, and dots where there are more."""
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


def state_mask(
    states: Any,
    num_states: int,
    names: Sequence[str] | None,
    what: str,
    *,
    kind: str = "state",
    regions: Iterable[str] = (),
) -> Tensor:
    """Turns states (or actions) given as a mask, indices or names into a mask.

    Args:
        states: bool [S], an index, a name, or a sequence of indices or names.
        num_states: S.
        names: the state names, or None.
        what: how the argument is called in messages.
        kind: what they are, "state" or "action".
        regions: names that would have been understood, too.

    Returns:
        bool [S].
    """
    letters = f"[{kind[0].upper()}]"
    if axis_labels(states):
        states = mask_by_name(states, (names, kind), what)
    if isinstance(states, (np.ndarray, Tensor)):
        array = torch.as_tensor(states).cpu()
        if array.dtype == torch.bool:
            check_shape(array, (num_states,), what, letters)
            return array.clone()
        states = array.reshape(-1).tolist()
    elif isinstance(states, (str, int, np.integer)):
        states = [states]
    elif isinstance(states, Iterable):
        states = list(states)
    else:
        raise TypeError(f"{what} is {states!r}; give indices, names or a mask of shape {letters}")
    mask = np.zeros(num_states, dtype=bool)
    if states and all(isinstance(state, (bool, np.bool_)) for state in states):
        check_shape(torch.as_tensor(states), (num_states,), what, letters)
        return torch.as_tensor([bool(state) for state in states])
    numbered: dict[str, int] = {}
    for state in states:
        if isinstance(state, str):
            numbered = numbered or {name: i for i, name in enumerate(names or ())}
            if state not in numbered:
                known = f"regions are {', '.join(regions)}; " if regions else ""
                meant = did_you_mean(state, [*(names or ()), *regions])
                known += f"the problem has no {kind} names" if names is None else f"names are {some_names(names)}"
                raise ValueError(f"{what}: no {kind} is called {state!r}{meant}; {known}")
            state = numbered[state]
        elif isinstance(state, bool) or not isinstance(state, numbers.Integral):
            raise TypeError(f"{what}: {state!r} is no {kind}; give indices, names or a mask of shape {letters}")
        if not 0 <= state < num_states:
            raise ValueError(f"{what}: {kind} {int(state)} does not exist; {kind}s are 0 to {num_states - 1}")
        if mask[int(state)]:
            raise ValueError(f"{what}: {kind} {int(state)} is given twice; give each index once, or a mask of bools")
        mask[int(state)] = True
    return torch.from_numpy(mask)


def whole_number(value: Any) -> int | None:
    """An int of anything that is a whole number (not a bool), also a 0-dim array or tensor; else None."""
    if isinstance(value, (bool, np.bool_)) or (
        isinstance(value, Tensor) and (value.dtype == torch.bool or value.dim())
    ):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_horizon(horizon: Any) -> int | float:
    """A number of steps >= 1, or math.inf; refuses anything else. 20.0 is 20, also as a 0-dim array or tensor."""
    if isinstance(horizon, _Forgotten):
        logger.warning(
            "no horizon was given, and the model takes %d steps; say horizon=%d, or math.inf for a stationary answer",
            horizon,
            horizon,
        )
    single = not isinstance(horizon, (bool, np.bool_)) and getattr(horizon, "shape", ()) == ()
    number = horizon.item() if single and isinstance(horizon, (Tensor, np.ndarray, np.generic)) else horizon
    if isinstance(number, numbers.Real) and number == math.inf:
        return math.inf
    whole = isinstance(number, numbers.Real) and not isinstance(number, bool) and number == number // 1
    if not whole:
        meant = isinstance(number, numbers.Real) and 0 < float(number) < 1
        hint = f"; if {number} is the temperature or the discount, name it, and give the horizon first" if meant else ""
        raise ValueError(f"horizon is {horizon!r}; expected a whole number of steps >= 1, or math.inf{hint}")
    if number < 1:
        raise ValueError(f"horizon is {horizon}; it must be at least 1")
    if number > 10**300:
        raise ValueError("horizon is above 10^300, more than floats hold; math.inf is for a stationary answer")
    return int(number)


def as_probability(value: float, what: str) -> float:
    """The number, if it is a probability.

    Raises:
        ValueError: naming it, if it is none.
    """
    if isinstance(value, bool) or not 0 <= value <= 1:
        raise ValueError(f"{what} is {value}; it is a probability: give a number from 0 to 1")
    return value


def as_distribution(values: Any, what: str) -> list[float]:
    """The numbers, if they are probabilities that sum to 1.

    Raises:
        ValueError, TypeError: naming them, if they are not, or not in a row.
    """
    tensor, source = float_tensor(values, what)
    if tensor.dim() != 1 or not len(tensor):
        raise ValueError(f"{what} has shape {list(tensor.shape)}; expected a row of probabilities")
    return check_distribution(tensor, what, source).tolist()


def as_count(value: int, what: str, least: int = 1) -> int:
    """The number, if it is a whole one and large enough.

    Raises:
        ValueError: naming it, if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{what} is {value!r}; give a whole number of at least {least}")
    return int(value)


def named_index(names: Sequence[str] | None, name: str, what: str) -> int:
    """The number of a state or an action, by its name."""
    if names is None or name not in names:
        known = f"the process has no {what} names" if names is None else f"names are {some_names(names)}"
        raise ValueError(f"no {what} is called {name!r}{did_you_mean(name, names or ())}; {known}")
    return list(names).index(name)


def start_distribution(initial: Any, num_states: int, names: Sequence[str] | None, miss: float | None = None) -> Tensor:
    """Float64 [S], p(s_1), from probabilities, a state that is certain, or {state: probability}.

    Args:
        initial: [S]; or the name or the number of the first state; or {name or number: probability}.
        num_states: S.
        names: of the states, or None.
        miss: by how much the sum may miss 1, unless the dtype is to say so.

    Raises:
        TypeError, ValueError: if it is none of these, or no distribution.
    """
    if isinstance(initial, Mapping):
        values = np.zeros(num_states)
        for state, probability in initial.items():
            values[_state(state, num_states, names)] += float(probability)
        return check_distribution(torch.from_numpy(values), "initial", torch.float64, miss=miss, hint=MENDS)
    if isinstance(initial, str) or whole_number(initial) is not None:
        return torch.eye(1, num_states, dtype=torch.float64).roll(_state(initial, num_states, names), 1)[0]
    tensor, source = float_tensor(initial, "initial", [(names, "state")])
    check_shape(tensor, (num_states,), "initial", "[S]")
    return check_distribution(tensor, "initial", source, miss=miss, hint=MENDS)


def _state(state: Any, num_states: int, names: Sequence[str] | None) -> int:
    if isinstance(state, str):
        return named_index(names, state, "state")
    number = whole_number(state)
    if number is None:
        raise TypeError(f"initial: {state!r} is no state; give its number or its name")
    if not 0 <= number < num_states:
        raise ValueError(f"initial: state {number} does not exist; states are 0 to {num_states - 1}")
    return number


def available_mask(available: Any, num_states: int, num_actions: int, terminal: Tensor) -> Tensor:
    """Bool [S, A], checked; states that are not terminal (bool [S]) need an action."""
    try:
        mask = torch.as_tensor(np.asarray(available) if not isinstance(available, Tensor) else available).cpu().clone()
    except ValueError:
        raise ValueError("available is ragged; expected bool [S, A] with rows of equal length") from None
    except TypeError:
        raise TypeError("available holds no bools; expected bool [S, A], true where the action exists") from None
    if mask.dtype != torch.bool:
        raise TypeError(f"available has dtype {mask.dtype}; expected bool [S, A], true where the action exists")
    check_shape(mask, (num_states, num_actions), "available", "[S, A]")
    idle = ~mask.any(-1) & ~terminal
    if idle.any():
        state = int(torch.nonzero(idle)[0])
        raise ValueError(
            f"available: state {state} has no action; every state needs at least one, unless it ends the episode: "
            "terminal=[...] says which do"
        )
    return mask
