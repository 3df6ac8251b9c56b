"""Names and values of sites as users write them: time indices, names of actions and states, numbers and vectors."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import torch

from cai.models.common.checks import whole_number
from cai.models.programs.inspect import Program, ProgramInfo, site_time
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Value", "site_name", "site_value"]

Value = float | tuple[float, ...]  # of a site: a number, or those of a vector


def site_name(key: int | str, info: ProgramInfo, how: str) -> str:
    """The latent site that a time index or a name means; `how` it is revised, "set" or "known", is for messages.

    Raises:
        TypeError, ValueError: if there is no such site.
    """
    if not isinstance(key, str):
        t = whole_number(key)
        if t is None:
            raise TypeError(f"{key!r} names no site; give a time index from 0, or a name such as 'a_1'")
        if not 0 <= t < info.horizon:
            raise ValueError(
                f"there is no action at time index {t}; the program has {info.horizon} actions, time indices 0 to "
                f"{info.horizon - 1} (sites a_1 to a_{info.horizon})"
            )
        return f"a_{t + 1}"
    if key in info.factors:
        raise ValueError(
            f"site {key!r} is a factor or an observation, which is known already; only latent sites (states, actions "
            f"and further latents) can be {how}"
        )
    if key not in info.latents:
        shown = ", ".join(info.latents[:8]) + (", ..." if len(info.latents) > 8 else "")
        raise ValueError(f"the program draws no site called {key!r}; its latents are {shown}")
    return key


def site_value(site: str, value: Any, info: ProgramInfo, program: Program) -> Value:
    """The value of a site that is set or known, checked against what the site can draw.

    Raises:
        TypeError, ValueError: if it can draw no such value.
    """
    kind = (site_time(site) or ("latent",))[0]
    what = {"a": "actions", "s": "states"}.get(kind, "values")
    if isinstance(value, str):
        if not isinstance(program, TrajectoryModel) or what == "values":
            raise ValueError(f"the value of {site} is {value!r}; the {what} of this site have no names: give a number")
        return program.mdp.action_index(value) if kind == "a" else program.mdp.state_index(value)
    if site in info.continuous:
        return _point(site, value, info.shapes[site])
    number = whole_number(value)
    if number is None:
        names = " or a name" if isinstance(program, TrajectoryModel) and what != "values" else ""
        raise TypeError(f"the value of {site} is {value!r}; give a whole number{names}")
    if not 0 <= number < info.sizes[site]:
        raise ValueError(f"the value of {site} is {number}; its {what} are 0 to {info.sizes[site] - 1}")
    return number


def _point(site: str, value: Any, shape: tuple[int, ...]) -> Value:
    """A number, or those of a vector, at a site that has a density."""
    if len(shape) > 1:
        raise ValueError(f"{site} draws tensors of shape {list(shape)}; only numbers and vectors can be set or known")
    plain = value.tolist() if isinstance(value, (torch.Tensor, np.ndarray)) else value
    if not shape or (shape == (1,) and isinstance(plain, numbers.Real)):
        if isinstance(plain, bool) or not isinstance(plain, numbers.Real) or not math.isfinite(plain):
            raise TypeError(f"the value of {site} is {value!r}; it is drawn from a density: give a finite number")
        return (float(plain),) if shape else float(plain)
    found = tuple(plain) if isinstance(plain, (list, tuple)) else ()
    fits = len(found) == shape[0] and all(isinstance(x, numbers.Real) and math.isfinite(x) for x in found)
    if not fits:
        raise TypeError(
            f"the value of {site} is {value!r}; it is a vector drawn from a density: give {shape[0]} finite "
            f"number{'s' * (shape[0] > 1)}"
        )
    return tuple(float(x) for x in found)
