"""The table of backends, and `infer`, which asks one of them."""

from __future__ import annotations

import dataclasses
import math
import secrets
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

from cai.inference.backends.max_product import MaxProduct
from cai.inference.backends.optimistic import Optimistic
from cai.inference.backends.risk import RiskSensitive
from cai.inference.backends.sum_product import SumProduct
from cai.inference.backends.variational import StructuredVariational
from cai.inference.core.backend import Backend, check_criterion
from cai.inference.core.driver import Checkpoints, check_schedule, drive
from cai.inference.core.memory import check_memory
from cai.inference.core.posterior import Posterior
from cai.inference.core.posterior_batch import PosteriorBatch
from cai.inference.core.status import InferenceError, Status
from cai.inference.learning.path_consistency import PathConsistency
from cai.inference.learning.policy_gradient import PolicyGradient
from cai.inference.learning.soft_actor_critic import SoftActorCritic
from cai.inference.learning.soft_q_learning import SoftQLearning
from cai.inference.learning.stein_soft_q_learning import SteinSoftQLearning
from cai.inference.particles.smc import ImportanceSampling, SequentialMonteCarlo
from cai.inference.planning.aico import ApproximateInference
from cai.inference.planning.ilqr import IterativeLQR
from cai.inference.planning.mppi import PathIntegral
from cai.inference.programs.enumeration import Enumeration
from cai.inference.restricted.restricted import RestrictedVariational
from cai.inference.restricted.reward_weighted import EMPolicySearch, RewardWeightedRegression
from cai.inference.runs import begin_run, learner_for, told_apart
from cai.inference.tabular.magnitudes import out_of_range
from cai.inference.tabular.methods.batches import infer_batch
from cai.inference.tabular.methods.boltzmann import BoltzmannExploration, OneStepEntropy
from cai.inference.tabular.methods.policy_iteration import KLPolicyIteration, PosteriorPolicyIteration
from cai.inference.tabular.methods.value_iteration import ValueIteration
from cai.inference.tabular.methods.z_iteration import ZIteration
from cai.models.common.names import did_you_mean
from cai.models.common.options import check_kinds, split_options
from cai.models.common.plugins import Plugins, load_plugins
from cai.models.common.random_draws import check_seed
from cai.models.continuous.world import World
from cai.models.environments.world import EnvironmentModel
from cai.models.processes.mdp import MDP
from cai.models.programs.inspect import site_time
from cai.models.programs.observed_sites import as_conditioned
from cai.models.trajectory.batch import ModelBatch
from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "available_backends",
    "backend_label",
    "check_comes_back",
    "check_question",
    "drawn_seed",
    "infer",
    "judged",
    "make_backend",
    "record_seed",
]

RENAMED = {"max_steps", "max_backups"}  # earlier names of max_iterations

_BUILT_IN: tuple[Any, ...] = (
    SumProduct,
    StructuredVariational,
    Optimistic,
    Enumeration,
    SequentialMonteCarlo,
    ImportanceSampling,
    RestrictedVariational,
    MaxProduct,
    RiskSensitive,
    ValueIteration,
    ZIteration,
    BoltzmannExploration,
    OneStepEntropy,
    RewardWeightedRegression,
    EMPolicySearch,
    PosteriorPolicyIteration,
    KLPolicyIteration,
    IterativeLQR,
    ApproximateInference,
    PathIntegral,
    SoftQLearning,
    SteinSoftQLearning,
    SoftActorCritic,
    PolicyGradient,
    PathConsistency,
)


def available_backends() -> dict[str, Any]:
    """Backend classes by name: the built-in ones, and plug-ins of the entry-point group `cai.backends`.

    A plug-in is a class that follows `Backend`; it cannot replace a built-in name.
    """
    return _built_in() | _plugins().made


def _built_in() -> dict[str, Any]:
    return {cls.name: cls for cls in _BUILT_IN}


def _plugins() -> Plugins:
    return load_plugins("cai.backends", _built_in(), _checked_backend)


def _checked_backend(name: str, made: Any) -> Any:
    missing = [part for part in ("name", "target", "accepts", "cost", "supports", "run") if not hasattr(made, part)]
    if not callable(made) or missing:
        raise TypeError(f"it is no backend class: it lacks {', '.join(missing) or 'a constructor'}")
    return made


def make_backend(backend: str | Backend, **options: Any) -> Backend:
    """A backend by name with options, or the instance itself.

    Args:
        backend: an instance, or a name; options may follow it, as in "risk:eta=-2" or "variational:solver=svi",
            where numbers, inf, true, false and none are read as such and other values as words.
        **options: hyper-parameters of a backend given by name.

    Raises:
        ValueError: if the name or an option is unknown.
        TypeError: if it is neither a name nor a backend.
    """
    if isinstance(backend, str):
        backend, written = split_options(backend, "backend") if ":" in backend else (backend.strip(), {})
        classes = _built_in()
        if backend not in classes:  # looking for plug-ins takes a while
            plugins = _plugins()
            if backend in plugins.broken:
                raise ValueError(plugins.broken[backend])
            classes |= plugins.made
        options = written | options
        if backend not in classes:
            raise ValueError(
                f"no backend is called {backend!r}{did_you_mean(backend, classes)}; known are {', '.join(classes)}"
            )
        try:
            made: Backend = classes[backend](**options)
        except TypeError as error:
            if old := RENAMED & options.keys():
                raise ValueError(
                    f"backend {backend!r}: {min(old)} is called max_iterations, as in every backend"
                ) from None
            plain = not dataclasses.is_dataclass(classes[backend])
            if not plain:
                check_kinds(classes[backend], options, f"backend {backend!r}")
            fields = [] if plain else [field.name for field in dataclasses.fields(classes[backend])]
            unknown = "" if plain else next((name for name in options if name not in fields), "")
            said = f"it has no option {unknown!r}" if unknown else str(error)
            meant = did_you_mean(unknown, fields) or _of_models(unknown)
            raise ValueError(
                f"backend {backend!r}: {said}{meant}; its options are: {', '.join(fields) or 'none'}"
            ) from None
        if options and dataclasses.is_dataclass(made):
            check_kinds(type(made), options, f"backend {backend!r}")
        return made
    if isinstance(backend, (list, tuple, set, frozenset, dict)):
        raise TypeError(
            f"a {type(backend).__name__} of {len(backend)} is no backend, and one answers here; "
            "cai.compare(model, [name, ...]) asks several, side by side"
        )
    if isinstance(backend, type):
        raise TypeError(f"{backend.__name__} is a class; pass an instance: {backend.__name__}(...)")
    if not isinstance(backend, Backend):
        raise TypeError(
            f"a {type(backend).__name__} is no backend; it needs name, target, accepts, cost, supports and run"
        )
    if options:
        raise ValueError(
            f"options {', '.join(options)} go into the instance of {type(backend).__name__}, not into infer"
        )
    return backend


def _of_models(option: str) -> str:
    """What to say of an option that belongs to the model."""
    known = ("horizon", "temperature", "discount", "reward", "action_prior", "initial")
    meant = did_you_mean(option, known) if option and option not in known else ""
    if not meant and option not in known:
        return ""
    return f"{meant}: it belongs to the model, TrajectoryModel(...) or model.replace(...)"


def check_comes_back(backend: Backend) -> None:
    """Refuses a run of a backend that `cai.resume` would not find again, as it asks for it by name.

    Raises:
        ValueError: if nothing has that name, or another class.
    """
    if available_backends().get(backend.name) is not type(backend):
        raise ValueError(
            f"a run of {type(backend).__qualname__} could not go on: cai.resume asks for the backend by its name, "
            f"{backend.name!r}, which is not this class; give it a name of its own and an entry point in the group "
            "'cai.backends', or leave out folder"
        )


def backend_label(backend: Backend) -> str:
    """The backend's name, and what of its options differs from the defaults: "risk(eta=-2)"."""
    if not dataclasses.is_dataclass(backend):
        return backend.name
    changed = []
    for field in dataclasses.fields(backend):
        value, default = getattr(backend, field.name), field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        try:
            same = bool(value == default)
        except (RuntimeError, TypeError, ValueError):
            same = False
        if not same:
            if isinstance(value, tuple) and all(isinstance(part, int) for part in value):
                value = "x".join(map(str, value))  # as an option is written behind a name
            plain = isinstance(value, (bool, int, float, str)) or value is None
            changed.append(f"{field.name}={value if plain else type(value).__name__}")
    return f"{backend.name}({', '.join(changed)})" if changed else backend.name


def drawn_seed() -> int:
    """A seed that nobody chose, for seed=None."""
    return secrets.randbits(62)


def record_seed(posterior: Posterior | None, seed: int) -> None:
    """Says in the details of an answer which seed was drawn for it."""
    if posterior is not None:
        _record(posterior, seed=seed)


def _record(posterior: Posterior, **more: Any) -> None:
    posterior.__dict__["details"] = MappingProxyType({**posterior.details, **more})


def check_question(model: Any) -> None:
    """Refuses what is neither a model nor a program, and says how it becomes one.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(model, MDP):
        raise TypeError(
            "an MDP has no reward and no horizon yet; ask about TrajectoryModel(mdp, reward=..., horizon=...)"
        )
    if isinstance(model, str):
        raise TypeError(f"{model!r} is a name; build it first with cai.models.build_model({model!r})")
    if isinstance(model, (list, tuple)) and model:
        advice = (
            "ask about each, [cai.infer(one) for one in models]; variants of one process are asked about together as "
            "model.batch(reward=[...], temperature=[...])"
        )
        if isinstance(model[0], MDP):
            advice = "that is a process and its reward: TrajectoryModel(mdp, reward, horizon=...) makes a model of them"
        raise TypeError(f"expected one model, got a {type(model).__name__} of {len(model)}; {advice}")
    if not callable(model) and not isinstance(model, (ModelBatch, EnvironmentModel)):
        advice = ""
        if hasattr(model, "step") and hasattr(model, "reset"):
            advice = (
                "; of an environment, cai.models.count_model(environment, horizon=...) counts a table, and "
                "cai.models.environment_model(environment, discount=..., temperature=...) is what learners ask"
            )
        raise TypeError(f"expected a TrajectoryModel or a Pyro program, got {type(model).__name__}{advice}")


@overload
def infer(
    model: ModelBatch, backend: str | Backend = "exact", *, seed: int | None = 0, throw: bool = True, **options: Any
) -> PosteriorBatch: ...


@overload
def infer(
    model: Any, backend: str | Backend = "exact", *, seed: int | None = 0, throw: bool = True, **options: Any
) -> Posterior: ...


def infer(
    model: Any,
    backend: str | Backend = "exact",
    *,
    seed: int | None = 0,
    throw: bool = True,
    folder: str | Path | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 60.0,
    max_seconds: float = math.inf,
    **options: Any,
) -> Posterior | PosteriorBatch:
    """Asks a backend for the distribution over trajectories given optimality.

    A batch (`TrajectoryModel.batch`) is answered by a `PosteriorBatch`, each member as on its own: in one backward pass
    where `infer_batch` says so, else member by member.

    Backends that iterate (`svi`, `restricted`, `em` and others with a method `learner`) can be interrupted by Ctrl-C;
    the best answer so far then comes back with status NOT_CONVERGED (raised as an `InferenceError` if `throw` is True).
    With a folder, what they have reached is also stored, and `cai.resume(folder)` goes on from there, even after a
    crash, and ends with the same bits as a run that nothing stopped.

    Args:
        model: a `TrajectoryModel`, a batch of them, a continuous model, or any Pyro program with sites
            `s_1, a_1, O_1, s_2, ...` (factors in nats). A state or an action that the program observes
            is evidence, as by `condition`.
        backend: a name (see `available_backends`), or an instance such as `SumProduct()`.
        seed: for backends that draw; the same for every member of a batch. None draws one, which stands in
            `posterior.details["seed"]`.
        throw: raise unless the status is success; with False the posterior comes back with its status. A batch is
            answered to its end before the first failure is raised.
        folder: where a run is stored; it is made if need be, and must hold no other run.
        checkpoint_every: store after every so many steps; None for no such rule. No number depends on it.
        checkpoint_seconds: store when so many seconds have passed since the last time.
        max_seconds: begin no step later than this, and answer with the best so far.
        **options: hyper-parameters of a backend given by name.

    Returns:
        The posterior, or those of the members.

    Raises:
        ValueError: if the backend is unknown or does not accept the model.
        TooLarge: if what it needs does not fit into the memory that there is (a ValueError and a MemoryError).
        InferenceError: if inference failed and `throw` is True; it holds the posterior (of a batch: `BatchError`, which
            holds all answers).
    """
    check_question(model)
    model = model if isinstance(model, (TrajectoryModel, World, EnvironmentModel)) else as_conditioned(model)
    drawn, seed = seed is None, drawn_seed() if seed is None else check_seed(seed)
    chosen = make_backend(backend, **options)
    check_criterion(chosen, model)
    if isinstance(model, World) and not getattr(chosen, "answers_in_place", False):
        model = model.host
    in_steps = folder is not None or max_seconds < math.inf
    if isinstance(model, ModelBatch):
        if in_steps:
            raise ValueError("folder and max_seconds are for the run of one model; ask about the members one by one")
        check_memory(chosen, model)
        return infer_batch(
            model, chosen, lambda member: out_of_range(chosen, member) or _ask(member, chosen, seed, drawn), throw=throw
        )
    chosen.supports(model)
    outside = out_of_range(chosen, model)
    if outside is not None:
        return judged(chosen, outside, throw)
    check_memory(chosen, model)
    if not in_steps:
        return judged(chosen, _ask(model, chosen, seed, drawn), throw)
    learner, checkpoints = learner_for(chosen, model), None
    if folder is not None:
        check_schedule(checkpoint_every, checkpoint_seconds)
        check_comes_back(chosen)
        run = told_apart(begin_run(folder, chosen, model, seed))
        every = getattr(learner, "checkpoint_every", None) if checkpoint_every is None else checkpoint_every
        checkpoints = Checkpoints(Path(folder), steps=every, seconds=checkpoint_seconds, run=run)
    posterior = drive(learner, model, seed=seed, checkpoints=checkpoints, max_seconds=max_seconds)
    return judged(chosen, _told(model, posterior, seed, drawn), throw)


def judged(backend: Backend, posterior: Posterior, throw: bool) -> Posterior:
    """The posterior; raises InferenceError if it failed and `throw` is True."""
    if throw and not posterior.status.ok:
        raise InferenceError(backend.name, posterior.status, posterior, str(posterior.details.get("why", "")))
    return posterior


def _ask(model: Any, chosen: Backend, seed: int, drawn: bool) -> Posterior:
    posterior = chosen.run(model, seed=seed)
    if not isinstance(posterior, Posterior):
        raise TypeError(
            f"backend {chosen.name!r} returned a {type(posterior).__name__}; its run must return a Posterior"
        )
    return _told(model, posterior, seed, drawn)


def _told(model: Any, posterior: Posterior, seed: int, drawn: bool) -> Posterior:
    """The answer, whose details say which seed was drawn, and which evidence no policy can bring about."""
    if drawn:
        record_seed(posterior, seed)
    states = [name for name in getattr(model, "evidence", ()) if (site_time(name) or "")[:1] == ("s",)]
    if states and posterior.status is Status.UNAVOIDABLE:
        why = (
            f"the program observes {', '.join(states)}, which chance may miss under the true dynamics; to plan "
            f"from a known state, draw it without obs= and set it by cai.models.do(program, {{{states[0]!r}: ...}})"
        )
        _record(posterior, why=why)
    return posterior
