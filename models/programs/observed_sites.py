"""Programs that observe states or actions themselves, by obs= or `pyro.condition`, read as what `condition` makes."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from cai.models.programs.inspect import Program, site_time
from cai.models.programs.interventions import RevisedProgram
from cai.models.programs.session import first_run
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["as_conditioned"]


class _Draw(Messenger):
    """Draws states and actions that are observed, so that they are latent like all others."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["is_observed"] and site_time(msg["name"]):
            msg["is_observed"], msg["value"], msg["done"] = False, None, False


class _Impossible(ValueError):
    """A site observes what it cannot draw."""


class _Compare(Messenger):
    """Holds what discrete states and actions observe against their values, before the program goes on with it."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["type"] != "sample" or not msg["is_observed"] or not site_time(msg["name"]):
            return
        value = torch.as_tensor(msg["value"])
        if value.numel() != 1 or not getattr(msg["fn"], "has_enumerate_support", False):
            return
        values = msg["fn"].enumerate_support(expand=False).reshape(-1)
        if not bool((values == value.reshape(())).any()):
            raise _Impossible(
                f"site {msg['name']!r} observes {_number(value):g}, and its {len(values)} values are "
                f"{_number(values[0]):g} to {_number(values[-1]):g}"
            )


class _Drawn:
    """The program with none of its states and actions observed."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.__name__ = getattr(program, "__name__", "program")

    def __call__(self) -> None:
        with _Draw():
            self.program()


def as_conditioned(program: Any) -> Any:
    """The program, and where it observes states or actions `condition(...)` of the program that does not.

    Args:
        program: whatever is asked about; anything but a function is returned as it is.

    Returns:
        The same question, with every state and action latent: what was observed is evidence, log p(O, s_1 = 1).

    Raises:
        ValueError: if a discrete state or action observes what is none of its values.
    """
    if isinstance(program, (TrajectoryModel, RevisedProgram)) or not callable(program):
        return program
    try:
        nodes = first_run(_Compare()(program)).nodes
    except _Impossible as error:
        raise ValueError(str(error).splitlines()[0]) from None  # Pyro adds a table of shapes
    except (IndexError, RuntimeError, TypeError, ValueError):
        return program  # whoever inspects it next says what is wrong, which takes many runs
    evidence = {}
    for name, node in nodes.items():
        if node["type"] == "sample" and node["is_observed"] and site_time(name):
            value = torch.as_tensor(node["value"]).detach()
            if value.numel() != 1:
                return program
            evidence[name] = _number(value)
    return RevisedProgram(_Drawn(program), evidence=evidence) if evidence else program


def _number(value: Tensor) -> float:
    number: float = value.reshape(()).item()
    return number
