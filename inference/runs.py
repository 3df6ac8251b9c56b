"""Folders of runs: what was asked of which backend, so that a run which was cut off can go on from its last state."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from cai.inference.core.learner import Iterative, Learner
from cai.inference.core.posterior import Posterior
from cai.inference.core.storage import StorageError, can_store, load, save, storable
from cai.models.common.files import MissingFile, TakenPath, as_folder, is_there, make_folder
from cai.models.common.fingerprint import fingerprint
from cai.models.common.numerics import plain_number
from cai.models.common.schema import check_fields
from cai.models.continuous.simulate import DivergedRollout
from cai.models.continuous.world import World
from cai.models.environments.spaces import UniformActions
from cai.models.environments.world import EnvironmentModel, environment_model
from cai.models.programs.inspect import inspect_program
from cai.models.programs.observed_sites import as_conditioned
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["Purpose", "Run", "begin_run", "extend_run", "learner_for", "read_run", "told_apart"]

FILE = "run.safetensors"


def _parts_of_environment(world: EnvironmentModel) -> dict[str, Any]:
    """What makes the same world again."""
    if not isinstance(world.source, str):
        raise StorageError(f"{world.name} is made by a function, which no file can hold; only ids can be stored")
    if not isinstance(world.action_prior, UniformActions):
        raise StorageError(f"the action prior of {world.name} is a function, which no file can hold")
    parts = {"source": world.source, "discount": world.discount, "temperature": world.temperature}
    parts |= {"max_episode_steps": world.max_episode_steps, "make_options": world.make_options}
    box = hasattr(world.action_space, "low")
    return parts | {"action_bounds": (world.action_space.low, world.action_space.high) if box else None}


def _environment_of_parts(parts: dict[str, Any]) -> EnvironmentModel:
    return environment_model(parts.pop("source"), **parts.pop("make_options"), **parts)


storable("environment-model", pack=_parts_of_environment, unpack=_environment_of_parts)(EnvironmentModel)
TRIED = 7  # chains by which a continuous model is known


class Purpose(Protocol):
    """What a run is for, where that is more than the answer of its backend; an object that a file can hold."""

    def learner(self, backend: Any, model: Any) -> Learner[Any]:
        """What is run.

        Raises:
            ValueError: if the backend or the model does not fit.
        """

    def result(self, answer: Posterior, seed: int, throw: bool) -> Any:
        """What the run returns in place of the answer; raises on failure if `throw` is True."""


class Run(NamedTuple):
    """What a folder says of its run.

    Attributes:
        backend: its name.
        options: its options by name.
        given: the options that a file cannot hold, such as a module, with a fingerprint of each.
        seed: of the run.
        model: the model; None for a program, or where functions of it cannot be stored.
        outside: what was seen of the model from outside, to know another one by.
        purpose: a `Purpose`, or None where the answer of the backend is what is wanted.
    """

    backend: str
    options: dict[str, Any]
    given: dict[str, str]
    seed: int
    model: TrajectoryModel | World | EnvironmentModel | None
    outside: dict[str, Any]
    purpose: Any = None


BUDGETS = ("steps", "max_iterations", "checkpoint_every")  # options that may be others when a run goes on


def told_apart(run: Run) -> str:
    """What tells a run from others, whose states might lie in its folder: a digest of what was asked but budgets."""
    options = {name: value for name, value in run.options.items() if name not in BUDGETS}
    parts = [run.backend, options, run.given, run.seed, run.outside, run.purpose]
    return hashlib.sha256(json.dumps(_in_words(parts), sort_keys=True).encode()).hexdigest()


def _in_words(value: Any) -> Any:
    """Words and numbers; of anything else, such as tables and networks, a digest of what a file holds of it."""
    if isinstance(value, dict):
        return {str(name): _in_words(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_in_words(part) for part in value]
    if isinstance(value, Real):
        return float(value)
    return str(value) if isinstance(value, str) else fingerprint(value)


def learner_for(backend: Any, model: Any) -> Learner[Any]:
    """The learner of a backend for a model.

    Raises:
        ValueError: if the backend answers the model without iterations.
    """
    learner = backend.learner(model) if isinstance(backend, Iterative) else None
    if learner is None:
        raise ValueError(
            f"backend {backend.name!r} answers this model without a run that could be stored or cut short; leave out "
            "folder and max_seconds, and keep its answer by posterior.save"
        )
    return learner


def begin_run(folder: str | Path, backend: Any, model: Any, seed: int, purpose: Purpose | None = None) -> Run:
    """Makes the folder of a new run and writes down what is asked.

    Returns:
        What was written.

    Raises:
        FileExistsError: if the folder holds a run already, or cannot be made.
        ValueError: if the folder is "", or the backend is no dataclass, so that nobody knows its options.
    """
    path = as_folder(folder)
    if is_there(path / FILE):
        raise TakenPath(
            f"{str(folder)!r} holds a run already; cai.resume({str(folder)!r}) goes on with it, and a new run needs a "
            "folder of its own"
        )
    name: str = backend.name
    if not dataclasses.is_dataclass(backend):
        raise ValueError(f"backend {name!r} is no dataclass, so its options cannot be stored; leave out folder")
    options, given = {}, {}
    for field in dataclasses.fields(backend):
        if field.init:
            value = getattr(backend, field.name)
            if can_store(value):
                options[field.name] = value
            else:
                given[field.name] = _fingerprint(value)
    stored = model if isinstance(model, (TrajectoryModel, World, EnvironmentModel)) and can_store(model) else None
    make_folder(path, "the run")
    run = Run(name, options, given, int(seed), stored, _outside(model), purpose)
    save(path / FILE, run._asdict())
    return run


def read_run(folder: str | Path, model: Any, options: Mapping[str, Any]) -> tuple[Run, Any, dict[str, Any]]:
    """What a folder says of its run, the model that it is about, and all options of its backend.

    Args:
        folder: of the run.
        model: the model; None to take the stored one.
        options: options given again, in place of the stored ones.

    Raises:
        FileNotFoundError: if there is no run.
        StorageError: if the folder is damaged.
        ValueError: if something that no file can hold is missing, or is not what the run began with.
    """
    path = Path(folder) / FILE
    if not is_there(path):
        raise MissingFile(f"{str(folder)!r} holds no run; cai.infer(model, backend, folder=...) begins one")
    content = load(path)
    if not isinstance(content, dict) or set(content) != set(Run._fields):
        raise StorageError(f"{str(path)!r} does not describe a run; it is damaged, or of another version")
    try:
        check_fields(Run, content)
    except TypeError as error:
        raise StorageError(f"{str(path)!r} is damaged: {error}") from None
    run = Run(**content)
    if model is None and run.model is None:
        raise ValueError(
            f"the run in {str(folder)!r} is about a program (or a reward, or an environment, that no file can hold); "
            "give it again: cai.resume(folder, model=...)"
        )
    model = run.model if model is None else model if isinstance(model, EnvironmentModel) else as_conditioned(model)
    outside = _outside(model)
    differing = [name for name in outside | run.outside if outside.get(name) != run.outside.get(name)]
    if differing:
        raise ValueError(
            f"the run in {str(folder)!r} is about another model: its {differing[0]} is not the same; give the model "
            "that the run began with"
        )
    for name, known in run.given.items():
        if name not in options:
            raise ValueError(
                f"the run in {str(folder)!r} was given {name}=..., which no file can hold; give it again: "
                f"cai.resume(folder, {name}=...)"
            )
        if _fingerprint(options[name]) != known:
            raise ValueError(f"the run in {str(folder)!r} began with another {name}; give that one")
    return run, model, run.options | dict(options)


def extend_run(folder: str | Path, run: Run, options: dict[str, Any], steps: int) -> dict[str, Any]:
    """The options of a run with another budget of transitions, which is also written down.

    Raises:
        ValueError: if the backend has no such budget, or the new one is smaller.
    """
    before = run.options.get("steps")
    if before is None:
        raise ValueError(f"backend {run.backend!r} has no budget of steps; its limit is max_iterations=...")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < before:
        raise ValueError(
            f"steps is {steps!r}, and the run in {str(folder)!r} has a budget of {before:,} transitions in all; give "
            "as many or more, or start anew in another folder"
        )
    if steps > before:
        save(Path(folder) / FILE, run._replace(options={**run.options, "steps": steps})._asdict())
    return {**options, "steps": steps}


def _outside(model: Any) -> dict[str, Any]:
    """What two models differ in by name: tables by their digests, or of a program its sites and sizes."""
    if isinstance(model, World):
        return _seen_of_world(model)
    if isinstance(model, EnvironmentModel):
        known: dict[str, Any] = {
            "world": model.name,
            "observations": repr(model.observation_space),
            "actions": repr(model.action_space),
        }
        return known | {"discount": model.discount, "temperature": model.temperature}
    if not isinstance(model, TrajectoryModel):
        return {name: _plain(value) for name, value in dataclasses.asdict(inspect_program(model)).items()}
    mdp = model.mdp
    parts: dict[str, Any] = {"horizon": model.horizon, "discount": model.discount, "optimality": model.optimality}
    parts["criterion"] = model.criterion
    parts |= {"states": mdp.num_states, "actions": mdp.num_actions}
    tables = {"probabilities": mdp.probabilities, "next states": mdp.next_states, "start": mdp.initial}
    tables |= {"terminal states": mdp.terminal, "action prior": model.action_prior}
    tables["temperature"] = torch.as_tensor(model.temperature, dtype=torch.float64)
    rewards = [model.reward_table(t) for t in model.reward_times]
    parts |= {name: "" if table is None else _digest([table]) for name, table in tables.items()}
    return parts | {"reward": _digest(rewards)}


def _seen_of_world(world: World) -> dict[str, Any]:
    """Sizes and numbers of a continuous model, and what its first and last step make of a few seeded chains."""
    parts: dict[str, Any] = {"kind": type(world).__name__, "states": world.state_dim, "actions": world.action_dim}
    parts |= {"horizon": world.horizon, "discount": world.discount, "criterion": world.criterion}
    parts |= {"temperature": plain_number(world.temperature), "action prior": repr(world.action_prior)}
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        states = world.reset(TRIED, draws)
        actions = torch.randn(*states.shape[:-1], world.action_dim, generator=draws, dtype=states.dtype)
        for name, t in (("first step", 0), ("last step", world.steps - 1)):
            try:
                moved = world.step(states, actions, t, draws)
                parts[name] = _digest([moved.next_states, moved.rewards])
            except DivergedRollout:
                parts[name] = "diverged"
    return parts


def _plain(value: Any) -> Any:
    return dict(sorted(value.items())) if isinstance(value, dict) else value


def _digest(tables: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for table in tables:
        plain = table.detach().cpu().contiguous()
        digest.update(f"{plain.dtype}{list(plain.shape)}".encode() + plain.numpy().tobytes())
    return digest.hexdigest()


def _fingerprint(value: Any) -> str:
    """Tells modules apart by their layers and numbers, and anything else by its class alone."""
    module = getattr(value, "module", value)
    if isinstance(module, nn.Module):
        return f"{module}{_digest(list(module.state_dict().values()))}"
    return type(value).__qualname__
