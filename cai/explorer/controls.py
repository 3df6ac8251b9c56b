"""What can be moved about a model: the numbers of its builder, temperature, discount, horizon, and eta."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.world import World
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.registry import available_models, build_model

__all__ = ["Control", "Source", "make_controls", "open_source"]

Kind = Literal["slider", "log", "whole", "number", "switch"]

Model = TrajectoryModel | LinearGaussianModel  # what the panel has answers about

COMMON = ("temperature", "discount", "horizon")
ETA = -1.0  # what the dial of `risk` shows first: some caution
MILD = -0.05  # the same where the world is Gaussian
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

    build: Callable[..., Model]
    options: Mapping[str, float | bool]
    first: Model


def open_source(source: Any) -> Source:
    """Reads what a name, a model or a builder lets one change, and builds it once.

    Raises:
        TypeError: if it is none of these, or a builder has to be told something or returns no model.
        ValueError: if there is no such name.
    """
    _check_world(source)
    if isinstance(source, (TrajectoryModel, LinearGaussianModel)):
        return Source(partial(_rebuild, lambda: source, frozenset()), {}, source)
    if isinstance(source, str):
        build: Callable[..., Any] = partial(build_model, source)
        entries = available_models()
        key = source.replace("_", "-") if source.replace("_", "-") in entries else source
        if key not in entries or entries[key].read:  # an id of Gymnasium's, whose table is read once, or refused
            return open_source(build_model(source))
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
            f"explore got a {type(source).__name__}; give a name from 'cai models', a TrajectoryModel or "
            "LinearGaussianModel, or a function that returns one"
        )
    first = build()
    _check_world(first)
    if not isinstance(first, (TrajectoryModel, LinearGaussianModel)):
        raise TypeError(
            f"the builder {_called(source)} returned a {type(first).__name__}; explore needs a function that returns a "
            "TrajectoryModel or a LinearGaussianModel (of Pyro programs, cai.compare shows what is known)"
        )
    options = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name not in COMMON and isinstance(parameter.default, (bool, int, float)) and math.isfinite(parameter.default)
    }
    return Source(partial(_rebuild, build, frozenset(parameters)), options, first)


def _check_world(model: Any) -> None:
    """Refuses continuous models that the answers of the panel are not about."""
    if isinstance(model, World) and not isinstance(model, LinearGaussianModel):
        raise ValueError(
            f"the panel shows 'exact', 'variational' and 'risk', and {model.name!r} is not linear-Gaussian; compare "
            "planners by cai.compare(model, ['ilqr', 'mppi']), or explore cai.models.discretize(model, ...)"
        )
    if isinstance(model, World) and model.batch_shape:
        raise ValueError(
            f"the model is a batch of shape {list(model.batch_shape)}; explore one of them, model.member(...)"
        )


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
        _dial(model),
        Control("horizon", "whole", horizon, 1, longest, 1, "steps"),
        Control("infinite_horizon", "switch", not model.is_finite),
        *(
            Control(name, "switch" if isinstance(value, bool) else "number", value)
            for name, value in source.options.items()
            if name not in slips
        ),
    )


def _dial(model: Model) -> Control:
    """The eta of `risk`; where the world is Gaussian caution ends early, at a breakdown."""
    if isinstance(model, LinearGaussianModel):
        return Control("eta", "slider", MILD, -3.0, 3.0, 0.05, "of risk: below 0 cautious, 0 true, 1 exact")
    return Control("eta", "slider", ETA, -5.0, 3.0, 0.1, "of risk: -1 cautious, 0 true, 1 exact")


def _rebuild(build: Callable[..., Model], takes: frozenset[str], **options: Any) -> Any:
    """Calls the builder with what it takes, and replaces the rest in the model that it returns."""
    model: Any = build(**{name: value for name, value in options.items() if name in takes})
    rest = {name: value for name, value in options.items() if name not in takes}
    return model.replace(**rest) if rest else model


def _called(source: Any) -> str:
    return str(getattr(source, "__name__", type(source).__name__))
