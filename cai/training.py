"""The commands that learn: train in a world, go on with a run, and watch what a run has learned."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer

from cai.evaluation.episodes import play_episodes, takes_means
from cai.inference.core.driver import Checkpoints
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.inference.core.storage import StorageError, load
from cai.inference.registry import available_backends, infer, make_backend
from cai.inference.resume import resume
from cai.inference.runs import FILE, read_run
from cai.models.common.files import is_there
from cai.models.common.names import did_you_mean
from cai.models.common.options import split_options
from cai.models.environments.collect import acting_worlds
from cai.models.environments.world import EnvironmentModel, environment_model
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.registry import available_models, build_model
from cai.starting import INTERRUPTED, only_own_output

if TYPE_CHECKING:
    from cai.inverse.adversarial.estimate import AdversarialEstimate

__all__ = ["resume_command", "train_command", "watch_command"]

EPISODES = 20
UNKNOWN: dict[str, Any] = {"deterministic_return": None, "stochastic_return": None}
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The folder of the run.")]


def train_command(
    world: Annotated[str, typer.Argument(metavar="WORLD", help="An id of Gymnasium, or a model known by name.")],
    backend: Annotated[str, typer.Option(help="NAME or NAME:option=value,...; hidden_sizes=64x64.")],
    steps: Annotated[int, typer.Option(help="Transitions in all.")],
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where the run is kept; new.")],
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    temperature: Annotated[float | None, typer.Option(help="alpha; 1 for an environment unless given.")] = None,
    discount: Annotated[float | None, typer.Option(help="gamma; 0.99 for an environment unless given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Learn in a world from samples, and keep the run in a folder.

    The run is kept also when it is interrupted; 'cai resume' goes on with it.
    """
    with only_own_output() if as_json else contextlib.nullcontext():
        begin = time.perf_counter()
        problem = _world(world, temperature, discount)
        if is_there(folder / FILE):
            raise ValueError(
                f"{str(folder)!r} holds a run already; go on with it by cai resume {folder}, or take another"
            )
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{str(folder)!r} is no folder; give the path of one, new or without a run")
        answer = infer(problem, _learner(backend, steps), seed=seed, folder=folder, throw=False)
        line = _told(answer, backend, seed, folder, time.perf_counter() - begin)
    _finish(answer, line, as_json)


def resume_command(
    folder: Folder,
    steps: Annotated[int | None, typer.Option(help="Transitions in all; the run's own total unless given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run that was interrupted, or make it longer.

    It ends as if nothing had stopped it.
    """
    with only_own_output() if as_json else contextlib.nullcontext():
        begin = time.perf_counter()
        _there(folder)
        answer = resume(folder, steps=steps, throw=False)
        run, world, _ = read_run(folder, None, {})
        seconds = time.perf_counter() - begin
        if isinstance(answer, Posterior):
            line = _told(answer, run.backend, run.seed, folder, seconds)
        else:
            line = _learned(answer, world, run.backend, run.seed, folder, seconds)
    if isinstance(answer, Posterior):
        _finish(answer, line, as_json)
    else:
        _finish_learned(answer, line, as_json)


def watch_command(
    folder: Folder,
    episodes: Annotated[int, typer.Option(min=1, help="How many, of each kind.")] = EPISODES,
    render: Annotated[bool, typer.Option("--render", help="Show them in a window.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run episodes of the policy that a run has learned so far."""
    with only_own_output() if as_json else contextlib.nullcontext():
        _there(folder)
        run, world, _ = read_run(folder, None, {})
        path = folder / "policy.safetensors"
        if not path.exists():
            raise ValueError(
                f"{str(folder)!r} holds no policy; a run that was interrupted goes on by cai resume {folder}, and of "
                "one that ended with status 'unstable' none is left"
            )
        policy, steps = _fitting(load(path), world, path), _stored_steps(folder / Checkpoints.COUNT)
        if render:
            _show(world, policy, episodes, run.seed)
        line = {"world": world.name, "backend": run.backend, "seed": run.seed, "steps": steps, "folder": str(folder)}
        line |= _returns(world, policy, episodes, run.seed)
    _print(line, as_json)


def _fitting(policy: Any, world: Any, path: Path) -> Any:
    """The policy, if it can act in the world of its run.

    Raises:
        StorageError: if it cannot, as one of another run.
    """
    what = None
    if isinstance(world, TrajectoryModel):
        shape, own = (world.mdp.num_states, world.mdp.num_actions), getattr(policy, "action_probs", None)
        if own is None or tuple(own.shape[1:]) != shape:
            what = f"it is no table over {shape[0]} states and {shape[1]} actions"
    else:
        worlds = acting_worlds(world, 1)
        try:
            seen = torch.as_tensor(np.array(worlds.reset(seed=0)[0]))
            actions = policy.act(seen, 0, generator=torch.Generator())
            if tuple(actions.shape) != worlds.action_space.shape:
                what = f"its actions have shape {list(actions.shape)}, not {list(worlds.action_space.shape)}"
        except (IndexError, RuntimeError, TypeError, ValueError) as error:
            what = str(error)
        finally:
            worlds.close()
    if what is not None:
        raise StorageError(
            f"the policy in {str(path)!r} cannot act in {world.name}: {what}; it is one of another run, and cai resume "
            f"{path.parent} writes that of this run again"
        )
    return policy


def _stored_steps(path: Path) -> int:
    """What a run says of how far it is.

    Raises:
        StorageError: if it does not say so.
    """
    try:
        return int(json.loads(path.read_text())["steps"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{str(path)!r} is missing or damaged: it says how many steps of the run are stored; cai resume "
            f"{path.parent} writes it again"
        ) from error


def _there(folder: Path) -> None:
    if not is_there(folder / FILE):
        raise ValueError(f"{str(folder)!r} holds no run; cai train WORLD ... --folder {folder} begins one")


def _learner(written: str, steps: int) -> Any:
    """The backend NAME:option=value,... with this budget."""
    if ":" in written and "steps" in split_options(written, "backend")[1]:
        raise ValueError(
            f"backend {written!r} has steps behind its name, and --steps says how many; give --steps alone"
        )
    known, name = available_backends(), written.partition(":")[0].strip()
    learners = [each for each, made in known.items() if hasattr(made, "steps")]
    if name not in known and (near := did_you_mean(name, learners)):
        raise ValueError(f"no learner is called {name!r}{near}; the learners are {', '.join(learners)}")
    chosen = make_backend(written)
    if not hasattr(chosen, "steps"):
        raise ValueError(
            f"backend {chosen.name!r} learns from no samples, so there is nothing to train; the learners are "
            f"{', '.join(learners)} (cai compare asks the others)"
        )
    return make_backend(written, steps=steps)


def _world(name: str, temperature: float | None, discount: float | None) -> Any:
    """A model of the zoo by its name, or a Gymnasium environment by its id.

    Raises:
        ValueError: if it is neither.
    """
    import gymnasium

    known = available_models()
    if {name, name.replace("_", "-")} & set(known):
        options = {"temperature": temperature, "discount": discount}
        return build_model(name, **{key: value for key, value in options.items() if value is not None})
    if name not in gymnasium.registry and "-v" not in name and ":" not in name:
        near = did_you_mean(name, gymnasium.registry) or did_you_mean(name, known)
        raise ValueError(
            f"no model and no environment of Gymnasium is called {name!r}{near}; known models are {', '.join(known)}"
        )
    return environment_model(
        name, temperature=1.0 if temperature is None else temperature, discount=0.99 if discount is None else discount
    )


def _told(answer: Posterior, backend: str, seed: int, folder: Path, seconds: float) -> dict[str, Any]:
    """What is said of a run."""
    world = answer.model
    line: dict[str, Any] = {
        "world": world.name,
        "backend": backend.split(":")[0],
        "seed": seed,
        "steps": answer.details["steps"],
    }
    line |= {"status": answer.status.label, "seconds": round(seconds, 3), "folder": str(folder)}
    line["elbo"] = _finite(answer.elbo) if answer.status.ok else None
    if not answer.status.ok:
        return line | UNKNOWN
    return line | _returns(world, answer.policy(), EPISODES, seed)


def _finite(number: Any) -> float | None:
    """The number as JSON has it: null where it is not known or not finite."""
    return None if number is None or not math.isfinite(number) else float(number)


def _learned(
    found: AdversarialEstimate, world: Any, backend: str, seed: int, folder: Path, seconds: float
) -> dict[str, Any]:
    """What is said of a run against a discriminator; the world's own reward was not looked at."""
    line = {"world": world.name, "method": found.method, "backend": backend, "seed": seed, "steps": found.steps}
    line |= {"status": found.status.label, "seconds": round(seconds, 3), "folder": str(folder)}
    line |= {name: _finite(getattr(found, name)) for name in ("divergence", "discriminator_loss")}
    from cai.inverse.estimation.status import FitStatus  # which is loaded already, as is not so for other commands

    if found.status is FitStatus.UNSTABLE:
        return line | UNKNOWN
    return line | _returns(world, found.policy, EPISODES, seed)


def _returns(world: Any, policy: Any, episodes: int, seed: int) -> dict[str, Any]:
    """Plain sums of rewards over episodes, by the most probable action or the mean and by draws."""
    if isinstance(world, TrajectoryModel):
        return UNKNOWN
    found: dict[str, Any] = {"deterministic_return": None}
    for name, deterministic in (("deterministic_return", True), ("stochastic_return", False)):
        if deterministic and not takes_means(policy, world, seed):
            continue
        totals = play_episodes(policy, world, episodes, seed=seed, deterministic=deterministic).returns
        error = float(totals.std()) / math.sqrt(episodes) if episodes > 1 else None
        found[name] = {"mean": float(totals.mean()), "standard_error": error, "episodes": episodes}
    return found


def _show(world: Any, policy: Any, episodes: int, seed: int) -> None:
    """Episodes in a window of Gymnasium's."""
    if not isinstance(world, EnvironmentModel) or not isinstance(world.source, str):
        raise ValueError("--render shows environments that Gymnasium makes by an id")
    shown = world.replace(render_mode="human")
    fixed = takes_means(policy, world, seed)
    play_episodes(policy, shown, episodes, seed=seed, deterministic=fixed, side_by_side=1)


def _finish(answer: Posterior, line: dict[str, Any], as_json: bool) -> None:
    _print(line, as_json)
    if answer.details.get("why") and not answer.status.ok:
        print(f"{answer.status.label}: {answer.details['why']}", file=sys.stderr)
    if answer.status is Status.NOT_CONVERGED:  # nothing else ends a run before its budget
        raise typer.Exit(INTERRUPTED)
    if not answer.status.ok:
        raise typer.Exit(1)


def _finish_learned(found: AdversarialEstimate, line: dict[str, Any], as_json: bool) -> None:
    from cai.inverse.estimation.status import FitStatus

    _print(line, as_json)
    for sentence in (*found.warnings, *([] if found.status.ok else [str(found.status)])):
        print(sentence, file=sys.stderr)
    if not found.status.ok:
        raise typer.Exit(INTERRUPTED if found.status is FitStatus.NOT_CONVERGED else 1)


def _print(line: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(line, allow_nan=False), flush=True)
        return
    for name, value in line.items():
        if isinstance(value, dict):
            error = "" if value["standard_error"] is None else f" +- {value['standard_error']:.3g}"
            value = f"{value['mean']:.6g}{error} ({value['episodes']} episodes)"
        print(f"{name.replace('_', ' ')}: {'-' if value is None else value}")
