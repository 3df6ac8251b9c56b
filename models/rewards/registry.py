"""Reward factors known by name: some of this library, and plug-ins from the entry-point group `cai.rewards`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cai.models.common.names import did_you_mean
from cai.models.common.options import split_options
from cai.models.common.plugins import Plugins, load_plugins
from cai.models.rewards.base import RewardFactor
from cai.models.rewards.goals import Goal, Waypoint
from cai.models.rewards.penalties import DistancePenalty
from cai.models.rewards.tables import StepCost, as_reward

__all__ = ["RewardEntry", "available_rewards", "build_reward"]


@dataclass(frozen=True)
class RewardEntry:
    """A reward factor known by name: what it does, and how it is built."""

    name: str
    summary: str
    build: Callable[..., Any]

    @property
    def options(self) -> tuple[str, ...]:
        """The keywords that `build` takes."""
        return tuple(inspect.signature(self.build).parameters)


_BUILT_IN: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("goal", Goal),
    ("waypoint", Waypoint),
    ("step-cost", StepCost),
    ("distance", DistancePenalty),
)


def available_rewards() -> dict[str, RewardEntry]:
    """Every reward factor known by name; a plug-in cannot replace a built-in one.

    A plug-in is a `RewardFactor` class, a function of its options that returns a reward, or a reward that is ready (a
    function decorated with `reward_factor`). The first line of its docstring is its summary.
    """
    return _built_in() | _plugins().made


def _built_in() -> dict[str, RewardEntry]:
    return {name: RewardEntry(name, _summary(build), build) for name, build in _BUILT_IN}


def _plugins() -> Plugins:
    return load_plugins("cai.rewards", dict(_BUILT_IN), _entry)


def _entry(name: str, made: Any) -> RewardEntry:
    build = functools.partial(_itself, made) if isinstance(made, RewardFactor) else made
    if not callable(build):
        raise TypeError(f"it is a {type(made).__name__}; expected a factor, or what makes one")
    return RewardEntry(name, _summary(made), build)


def build_reward(name: str, **options: Any) -> RewardFactor:
    """Builds a reward factor by name.

    Args:
        name: one of `available_rewards()`; options may follow it, as in "goal:states=exit,value=10".
        **options: keywords of the factor.

    Raises:
        ValueError: if there is no such factor, it does not take an option, or lacks one.
        TypeError: if what a plug-in makes is no reward.
    """
    if not isinstance(name, str):
        raise TypeError(f"build_reward takes a name and got a {type(name).__name__}; a factor itself needs no building")
    name, written = split_options(name, "reward")
    options = written | options
    entries = _built_in()
    if name not in entries:
        plugins = _plugins()
        if name in plugins.broken:
            raise ValueError(plugins.broken[name])
        entries |= plugins.made
    if name not in entries:
        raise ValueError(f"no reward is called {name!r}{did_you_mean(name, entries)}; known are {', '.join(entries)}")
    entry = entries[name]
    takes = ", ".join(entry.options) or "no options"
    try:
        inspect.signature(entry.build).bind(**options)
    except TypeError as error:
        unknown = [key for key in options if key not in entry.options]
        meant = did_you_mean(unknown[0], entry.options) if unknown else ""
        what = f"does not take {unknown[0]}{meant}" if unknown else f"lacks an option ({error})"
        raise ValueError(f"reward {name!r} {what}; it takes {takes}") from None
    return as_reward(entry.build(**options))


def _itself(made: RewardFactor) -> RewardFactor:
    return made


def _summary(made: Any) -> str:
    document = inspect.getdoc(getattr(made, "function", made)) or "a plug-in"
    return document.splitlines()[0]
