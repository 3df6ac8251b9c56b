"""Log factors that are no numbers: which site of a program scores NaN or +inf, and for which values before it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.overrides import TorchFunctionMode

from cai.models.programs.session import pyro_session

__all__ = ["bad_score", "find_bad_site", "is_about_numbers"]

RUNS = 64  # runs of a program that has failed, to find the first of its sites that does
_CHECKING = "torch.distributions.distribution"  # the module in which distributions check their parameters
_VERDICTS = {"_is_all_true", "all"}  # functions of torch that say whether a check has passed, in one release or another
SHOWN = 4  # values that a message names, the last ones before the site


def bad_score(name: str, score: Tensor, values: Mapping[str, Any], *, is_factor: bool = True) -> str:
    """What to say of a site whose log probability is no number; empty if it is one.

    Args:
        name: of the site.
        score: its log probability.
        values: what was drawn before it, by site, as numbers.
        is_factor: whether it is observed or a factor; else it is a latent.
    """
    nan, infinite = bool(torch.isnan(score).any()), bool((score == torch.inf).any())
    if not nan and not (infinite and is_factor):
        return ""
    drawn = [f"{site} = {value}" for site, value in list(values.items())[-SHOWN:]]
    place = f" at {', '.join(drawn)}" if drawn else ""
    advice = "log factors are numbers, or -inf for what is forbidden"
    if not is_factor:
        advice = "its probabilities must be numbers"
    elif nan:
        advice += "; a log, root or quotient needs torch.where around its argument"
    return f"site {name!r} scores {'NaN' if nan else '+inf'}{place}; {advice}"


def is_about_numbers(error: Exception) -> bool:
    """Whether the error is what Pyro or torch say of numbers that are none, without naming the site."""
    return any(words in str(error) for words in ("to satisfy the constraint", "probability tensor contains", "p_in"))


def find_bad_site(program: Callable[[], Any]) -> str:
    """The first site, in the order of the program, that was seen to score NaN or +inf; "" if none was.

    The program runs alone, from its prior, with seeds of its own and without the checks of distributions, which do not
    name the site.
    """
    found, limit = "", None
    for seed in range(RUNS):
        sites = _Scores(limit)
        with pyro_session(seed, program), _Unchecked(), contextlib.suppress(_Stop), sites:
            try:
                program()
            except (RuntimeError, ValueError, IndexError):
                continue
        if sites.found:
            found, limit = sites.found, len(sites.seen) - 1
    return found


class _Stop(BaseException):
    """Breaks a program off; a BaseException, which a program's own `except Exception` does not swallow."""


class _Unchecked(TorchFunctionMode):
    """Distributions made in this thread find every parameter and value valid.

    `pyro.validation_enabled(False)` would turn the checks off, and on again, for every thread of the process.
    """

    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _VERDICTS and sys._getframe(1).f_globals.get("__name__") == _CHECKING:
            return torch.tensor(True)
        return func(*args, **(kwargs or {}))


class _Scores(Messenger):
    """Looks at every site until one is bad, or until so many have been met."""

    def __init__(self, limit: int | None) -> None:
        super().__init__()
        self.limit, self.found = limit, ""
        self.seen: list[str] = []
        self._values: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if len(self.seen) == self.limit:
            raise _Stop
        self.seen.append(msg["name"])
        if not msg["is_observed"]:
            given = (vars(msg["fn"]).get(name) for name in getattr(msg["fn"], "arg_constraints", ()))
            for part in given:
                if isinstance(part, Tensor):
                    self._look(msg["name"], torch.where(torch.isnan(part), part, 0.0), is_factor=False)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["infer"].get("_deterministic", False):
            return
        score = scale_and_mask(msg["fn"].log_prob(msg["value"]), msg["scale"], msg["mask"])
        self._look(msg["name"], score, is_factor=msg["is_observed"])
        if not msg["is_observed"] and isinstance(msg["value"], Tensor) and msg["value"].numel() == 1:
            self._values[msg["name"]] = f"{msg['value'].item():.6g}"

    def _look(self, name: str, score: Tensor, *, is_factor: bool) -> None:
        self.found = bad_score(name, score, self._values, is_factor=is_factor)
        if self.found:
            raise _Stop
