"""What a trajectory program looks like from outside: its horizon, its sizes and its sites, found by running it once.

Any Pyro program takes part whose sites are called `s_1, a_1, O_1, s_2, ...`: every `s_t` and `a_t` a latent, discrete
or with a density, every other observed or factor site part of optimality (in nats), every other latent "further". The
last `s_{T+1}` is optional. A policy for it sees s_t and t alone.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pyro import poutine

from cai.models.common.memory import require_memory
from cai.models.continuous.program import check_program_exists
from cai.models.continuous.world import World
from cai.models.programs.scores import find_bad_site, is_about_numbers
from cai.models.programs.session import first_run
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Program", "ProgramInfo", "explain", "failure", "inspect_program", "site_time", "trace_program"]

Program = Callable[[], Any]

_SITE = re.compile(r"^([sa])_([1-9]\d*)$")


@dataclass(frozen=True)
class ProgramInfo:
    """The outside of a trajectory program.

    Attributes:
        horizon: T, the number of action sites.
        num_states: the number of values of every s_t (with an absorbing one, where a discount adds it).
        num_actions: the number of values of every a_t.
        has_last_state: whether s_{T+1} is drawn.
        latents: every latent site, in the order of the program.
        further: the latents that are neither states nor actions.
        factors: observed and factor sites, in the order of the program.
        sizes: for every discrete latent, its number of values.
        continuous: latents without a finite support, which cannot be enumerated.
        shapes: for every one of these, the shape of a value: () for a number, (n,) for a vector.
    """

    horizon: int
    num_states: int
    num_actions: int
    has_last_state: bool
    latents: tuple[str, ...]
    further: tuple[str, ...]
    factors: tuple[str, ...]
    sizes: dict[str, int]
    continuous: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def _check_held(self) -> None:
        timed = [f"s_{t + 1}" for t in range(self.horizon + self.has_last_state)]
        timed += [f"a_{t + 1}" for t in range(self.horizon)]
        for what, wanted, held in (
            ("latents", [*timed, *self.further], self.latents),
            ("sizes or continuous", self.latents, (*self.sizes, *self.continuous)),
            ("shapes", self.continuous, self.shapes),
        ):
            if differing := {*wanted} ^ {*held}:
                raise ValueError(f"{what}: {min(differing)!r} is missing, or one too many")


def site_time(name: str) -> tuple[str, int] | None:
    """("s", 3) for "s_3", ("a", 1) for "a_1", None for any other site."""
    match = _SITE.match(name)
    return (match.group(1), int(match.group(2))) if match else None


def trace_program(program: Program) -> poutine.Trace:
    """One run of the program, drawn from its prior with a seed of its own."""
    try:
        return first_run(program)
    except (IndexError, RuntimeError, ValueError) as error:
        raise ValueError(failure(program, "the program failed when it was run", error)) from error


def failure(program: Program, what: str, error: Exception) -> str:
    """What to say of a program that failed: the site that scores no number if that is why, else the error's text."""
    site = find_bad_site(program) if is_about_numbers(error) else ""
    return site or f"{what}: {explain(error)}"


def explain(error: Exception) -> str:
    """What went wrong in a program, in one sentence: Pyro's own text without its table of shapes, and what to do."""
    text = " ".join(str(error).split("Trace Shapes")[0].split())
    hints = {
        "Boolean value of Tensor": "it branches on a tensor, and every value is tried at once: use torch.where",
        "Multiple sample sites": "every site needs a name of its own, e.g. f'O_{t}'",
        "tensors used as indices": "an index is no whole number: observe torch.tensor(1), not torch.tensor(1.0)",
        "Interval(": "a probability lies outside 0 to 1: for rewards above 0 use pyro.factor(f'O_{t}', reward)",
    }
    hint = next((advice for sign, advice in hints.items() if sign in text), "")
    return f"{hint} ({text})" if hint else text


def _takes_arguments(program: Program) -> bool:
    try:
        parameters = inspect.signature(program).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


def inspect_program(program: Program) -> ProgramInfo:
    """Runs a trajectory program once and reports what it is made of.

    Raises:
        TypeError: if it is not callable without arguments.
        ValueError: if its sites do not follow the naming, or it has no factor to condition on.
    """
    if not callable(program):
        raise TypeError(
            f"expected a TrajectoryModel or a Pyro program (a function of no arguments), got {type(program).__name__}"
            + ("; take its members one by one, [... for member in batch]" if hasattr(program, "horizons") else "")
        )
    if isinstance(program, World):
        return _inspect_world(program)
    if isinstance(program, TrajectoryModel) and not program.is_finite:
        raise ValueError("a program has finitely many steps, and this model's horizon is infinite; give horizon=N")
    if _takes_arguments(program):
        raise TypeError(
            "a trajectory program takes no arguments; bind them first, e.g. functools.partial(program, horizon) "
            "or lambda: program(horizon)"
        )
    latents, factors, sizes, shapes = _sites(trace_program(program))
    timed = {site: name for name in latents if (site := site_time(name))}
    horizon = _horizon(latents, timed)
    if not factors:
        raise ValueError(
            "the program has no observed or factor site, so there is nothing to condition on; "
            "add pyro.factor(f'O_{t}', reward) or an observed Bernoulli to each step"
        )
    for kind, what in (("s", "states"), ("a", "actions")):
        found = {name: sizes.get(name) for (k, _), name in timed.items() if k == kind}
        if len(set(found.values())) > 1:
            listed = ", ".join(f"{name}: {size}" for name, size in list(found.items())[:6])
            raise ValueError(f"the number of {what} changes over time ({listed}); give every step the same {what}")
    return ProgramInfo(
        horizon=horizon,
        num_states=sizes.get("s_1", 0),
        num_actions=sizes.get("a_1", 0),
        has_last_state=("s", horizon + 1) in timed,
        latents=tuple(latents),
        further=tuple(name for name in latents if not site_time(name)),
        factors=tuple(factors),
        sizes=sizes,
        continuous=tuple(shapes),
        shapes=shapes,
    )


def _inspect_world(world: World) -> ProgramInfo:
    """What a run of a continuous model would show; a single run may leave the finite numbers, and none is needed."""
    check_program_exists(world)
    require_memory(1000 * world.steps, f"a list of the sites of T = {world.steps:,} steps", "give a shorter horizon")
    latents: list[str] = ["s_1"]
    shapes: dict[str, tuple[int, ...]] = {"s_1": (world.state_dim,)}
    for t in range(1, world.steps + 1):
        added = {f"a_{t}": (world.action_dim,), f"s_{t + 1}": (world.state_dim,)}
        latents += added
        shapes |= added
        if world.discount < 1 and t < world.steps:
            latents.append(f"alive_{t + 1}")
    further = tuple(name for name in latents if not site_time(name))
    return ProgramInfo(
        horizon=world.steps,
        num_states=0,
        num_actions=0,
        has_last_state=True,
        latents=tuple(latents),
        further=further,
        factors=tuple(f"O_{t}" for t in range(1, world.steps + 1)),
        sizes=dict.fromkeys(further, 2),
        continuous=tuple(shapes),
        shapes=shapes,
    )


def _sites(trace: poutine.Trace) -> tuple[list[str], list[str], dict[str, int], dict[str, tuple[int, ...]]]:
    """(latents, factors, the numbers of values of discrete latents, the shapes of the other latents) of one run."""
    latents: list[str] = []
    factors: list[str] = []
    sizes: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or type(node["fn"]).__name__ == "_Subsample":
            continue
        if node["cond_indep_stack"]:
            raise ValueError(
                f"site {name!r} stands in a pyro.plate; a trajectory program is one trajectory: drop the plate"
            )
        if node["is_observed"]:
            if site_time(name):
                raise ValueError(
                    f"site {name!r} is observed; states and actions must be latent here: draw it without obs=, and say "
                    f"what is known by cai.models.condition(program, {{{name!r}: ...}}), or set it by do(...)"
                )
            if not node["infer"].get("_deterministic", False):
                factors.append(name)
            continue
        latents.append(name)
        if node["fn"].has_enumerate_support and not node["fn"].event_shape:
            sizes[name] = int(node["fn"].enumerate_support(expand=False).shape[0])
        else:
            shapes[name] = tuple(node["fn"].event_shape)
    return latents, factors, sizes, shapes


def _horizon(latents: list[str], timed: dict[tuple[str, int], str]) -> int:
    """T, by the sites of states and actions; refuses numbers that are missing or too many."""
    counted = [name for name in latents if re.match(r"^[sa]_0\d*$", name)]
    if counted:
        raise ValueError(f"site {counted[0]!r} counts from 0; number the sites from 1: s_1, a_1, O_1, s_2, ...")
    horizon = max((t for kind, t in timed if kind == "a"), default=0)
    if horizon == 0:
        raise ValueError(
            f"the program has no site called a_1 (its latents are: {', '.join(latents) or 'none'}); "
            "call the sites s_1, a_1, O_1, s_2, a_2, ..."
        )
    needed = [(kind, t) for t in range(1, horizon + 1) for kind in "sa"]
    missing = [f"{kind}_{t}" for kind, t in needed if (kind, t) not in timed]
    if missing:
        raise ValueError(
            f"the program has a_{horizon} but no site called {missing[0]}; every step needs s_t and a_t "
            f"(its latents are: {', '.join(latents)})"
        )
    extra = [name for (_, t), name in timed.items() if t > horizon + 1]
    if extra:
        raise ValueError(
            f"the program draws {extra[0]} but no a_{horizon + 1}; states may go one step past the actions"
        )
    return horizon
