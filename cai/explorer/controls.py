"""What can be moved about a model: the numbers of its builder, temperature, discount, horizon, and eta."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.registry import available_models, build_model

__all__ = ["Control", "Source", "make_controls", "open_source"]

Kind = Literal["slider", "log", "whole", "number", "switch"]

COMMON = ("temperature", "discount", "horizon")
ETA = -1.0  # what the dial of `risk` shows first: some caution
SLIPS = ("slip",)
DECADES = 2  # that a temperature can be moved up and down
PER_DECADE = 10


@dataclass(frozen=True)
class Control:
    """One thing that can be moved, without saying by which widget.

    Attributes:
        name: of the option.
        kind: "slider" (evenly spaced), "log" (a slider over decades), "whole" (a slider of whole numbers), "number"
            (any number, typed in) or "switch" (a bool).
        value: what it shows first.
        low: the smallest value of a slider.
        high: the largest.
        step: from one value to the next; of "log" the factor between the two.
        unit: to be read after the name.
    """

    name: str
    kind: Kind
    value: Any
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    unit: str = ""

    @property
    def label(self) -> str:
        """The name as people write it, with the unit."""
        words = self.name.replace("_", " ")
        return f"{words} ({self.unit})" if self.unit else words

    @property
    def choices(self) -> list[float]:
        """Of a "log" control, the values that its slider stops at; the first one shown is among them."""
        steps = round(math.log(self.high / self.low) / math.log(self.step))
        middle = round(math.log(self.value / self.low) / math.log(self.step))
        return [float(f"{self.value * self.step ** (k - middle):.3g}") if k != middle else self.value
                for k in range(steps + 1)]  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where models come from.

    Attributes:
        build: makes the model of given options; those left out keep their defaults.
        options: the finite numbers of the builder itself, by name, with their defaults.
        first: the model at the defaults.
    """

    build: Callable[..., TrajectoryModel]
    options: Mapping[str, float | bool]
    first: TrajectoryModel


def open_source(source: Any) -> Source:
    """Reads what a name, a model or a builder lets one change, and builds it once.

    Raises:
        TypeError: if it is none of these, or a builder has to be told something or returns no model.
        ValueError: if there is no such name.
    """
    if isinstance(source, TrajectoryModel):
        return Source(partial(_rebuild, lambda: source, frozenset()), {}, source)
    if isinstance(source, str):
        build: Callable[..., Any] = partial(build_model, source)
        entries = available_models()
        key = source.replace("_", "-") if source.replace("_", "-") in entries else source
        if key not in entries:  # an id of Gymnasium's, or refused
            first = build_model(source)
            return Source(partial(_rebuild, build, frozenset(COMMON)), {}, first)
        parameters = inspect.signature(entries[key].build).parameters
    elif callable(source):
        build, parameters = source, inspect.signature(source).parameters
        for name, parameter in parameters.items():
            variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            if parameter.default is parameter.empty and not variadic:
                raise TypeError(
                    f"the builder {_called(source)} has to be told {name!r}, and explore first calls it without "
                    f"arguments: give {name} a default, or pass functools.partial({_called(source)}, {name}=...)"
                )
    else:
        raise TypeError(
            f"explore got a {type(source).__name__}; give a name from 'cai models', a TrajectoryModel, or a function "
            "that returns one"
        )
    first = build()
    if not isinstance(first, TrajectoryModel):
        raise TypeError(
            f"the builder {_called(source)} returned a {type(first).__name__}; explore needs a function that returns a "
            "TrajectoryModel (of Pyro programs, cai.compare shows what is known)"
        )
    options = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in COMMON and isinstance(parameter.default, (bool, int, float)) and math.isfinite(parameter.default)
    }
    return Source(partial(_rebuild, build, frozenset(parameters)), options, first)


def make_controls(source: Source) -> tuple[Control, ...]:
    """What can be moved, in the order of the panel: slip first, what the builder has of its own last."""
    model = source.first
    if model.is_average:
        raise ValueError(
            "the explorer moves horizon and discount, and this model has criterion='average', which has neither; leave "
            "the criterion out, or use cai.sweep over its temperature"
        )
    alpha = float(model.temperature)
    horizon = int(model.horizon) if model.is_finite else 20
    longest = max(50, 3 * horizon)
    factor = 10 ** (1 / PER_DECADE)
    slips = [name for name in source.options if name in SLIPS]
    return (
        *(Control(name, "slider", float(source.options[name])) for name in slips),
        Control("temperature", "log", alpha, alpha / 10**DECADES, alpha * 10**DECADES, factor, "reward units per nat"),
        Control("discount", "slider", model.discount, min(0.5, model.discount), 1.0, 0.01),
        Control("eta", "slider", ETA, -5.0, 3.0, 0.1, "of risk: -1 cautious, 0 true, 1 exact"),
        Control("horizon", "whole", horizon, 1, longest, 1, "steps"),
        Control("infinite_horizon", "switch", not model.is_finite),
        *(
            Control(name, "switch" if isinstance(value, bool) else "number", value)
            for name, value in source.options.items()
            if name not in slips
        ),
    )


def _rebuild(build: Callable[..., TrajectoryModel], takes: frozenset[str], **options: Any) -> TrajectoryModel:
    """Calls the builder with what it takes, and replaces the rest in the model that it returns."""
    model = build(**{name: value for name, value in options.items() if name in takes})
    rest = {name: value for name, value in options.items() if name not in takes}
    return dataclasses.replace(model, **rest) if rest else model


def _called(source: Any) -> str:
    return str(getattr(source, "__name__", type(source).__name__))
