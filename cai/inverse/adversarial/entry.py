"""AIRL and GAIL: rewards and policies from demonstrations, by a policy against a discriminator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cai.inference.backends.variational import StructuredVariational
from cai.inference.core.driver import Checkpoints, check_schedule, drive
from cai.inference.registry import check_comes_back, make_backend
from cai.inference.runs import begin_run, told_apart
from cai.inverse.adversarial.estimate import AdversarialEstimate, judged
from cai.inverse.adversarial.exact import exact_estimate
from cai.inverse.adversarial.learned import adversarial_run, checked_learner
from cai.models.common.checks import as_count
from cai.models.common.random_draws import check_seed
from cai.models.continuous.world import World
from cai.models.environments.world import EnvironmentModel
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["airl", "gail"]

RECENT = 1000  # transitions that stand for the policy


class Schedule(NamedTuple):
    """Where a run is stored and how often, and when it ends at the latest; as of `cai.infer`."""

    folder: str | Path | None
    every: int | None
    seconds: float
    most: float


def airl(
    env: Any,
    demos: Any,
    *,
    learner: Any,
    seed: int = 0,
    state_only: bool = False,
    hidden_sizes: Sequence[int] = (64, 64),
    learning_rate: float = 1e-3,
    recent: int = RECENT,
    rounds: int = 2000,
    throw: bool = True,
    folder: str | Path | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 60.0,
    max_seconds: float = math.inf,
) -> AdversarialEstimate:
    """Adversarial inverse reinforcement learning (Fu, Luo and Levine 2018): a reward with its shaping taken apart.

        D(s, a, s') = exp f / (exp f + pi(a | s)),   f = g(s[, a]) + gamma h(s') - h(s)

    Where dynamics are certain the demonstrator's g = r / alpha + log p, h = V / alpha give f = log pi and D = 1/2.
    Under noise f looks at the next state that was drawn, and no g and h make D = 1/2 step by step: g is then off (by .4
    nats and more in small examples), which is why tables with noise are refused. `cai.inverse.fit` is right there.

    A learner that adds entropy is paid f, at temperature 1 in the entropy form; one that does not is paid f - log pi.
    Never both, or the entropy counts twice and the policy is that of temperature 2. Ends of episodes lead to an
    absorbing state with a learned reward, so that demonstrations of unequal lengths need no sign of the reward.

    Args:
        env: the world: what `cai.models.environment_model` makes, a continuous model with a box of actions, or a
            `TrajectoryModel`, on which all is exact. Its discount is used; its reward, temperature and prior are not.
        demos: `Demonstrations` (numbers), `ContinuousDemonstrations`, the `Transitions` of `cai.models.collect`,
            episodes of Minari or trajectories of imitation. Those that were cut count as far as they go; tables refuse
            them.
        learner: "soft-actor-critic" or "soft-q-learning" with options as in "soft-actor-critic:steps=20000", an
            instance of these, or a `NetworkBackend` of your own, whose class variable `adds_entropy` says what its
            networks do. On a `TrajectoryModel` "variational", the exact answer in each round.
        seed: of everything that is drawn.
        state_only: whether g is of states alone, which removes what depends on this world's dynamics where those are
            certain and every state leads to every other in some number of steps (Fu 2018, theorem 5.1).
        hidden_sizes: of the layers of g and h; () for linear functions of the observation.
        learning_rate: of the discriminator.
        recent: how many of the last transitions stand for the policy. More of them are older, of policies that were
            others, and the discriminator learns to tell these.
        rounds: on tables, at most.
        throw: whether anything but success raises.
        folder: where a run of networks is stored, demonstrations included; it is made if need be, and must hold no
            other run. `cai.resume(folder)` goes on from there, even after a crash, and returns the same bits.
        checkpoint_every: store after every so many transitions; None for what the learner says.
        checkpoint_seconds: store when so many seconds have passed since the last time.
        max_seconds: begin no step later than this, and judge what was learned so far.

    Returns:
        The policy, the reward, and how far the policy is from the demonstrations.

    Raises:
        ValueError, TypeError: on bad input; each says what was got, what was expected, and what to do.
        FitError: on anything but success, unless `throw=False`; its `estimate` holds what was found.
    """
    schedule = Schedule(folder, checkpoint_every, checkpoint_seconds, max_seconds)
    form = (state_only, hidden_sizes)
    return _adversarial("airl", env, demos, learner, seed, form, learning_rate, recent, rounds, throw, schedule)


def gail(
    env: Any,
    demos: Any,
    *,
    learner: Any,
    seed: int = 0,
    hidden_sizes: Sequence[int] = (64, 64),
    learning_rate: float = 1e-3,
    recent: int = RECENT,
    rounds: int = 2000,
    throw: bool = True,
    folder: str | Path | None = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float = 60.0,
    max_seconds: float = math.inf,
) -> AdversarialEstimate:
    """Generative adversarial imitation learning (Ho and Ermon 2016): a policy alone, by a D(s, a) without a form.

        D(s, a) = exp g / (exp g + pi(a | s)),   rho_E / (rho_E + rho_pi) at its optimum

    A learner that adds entropy is paid g = log pi + log D / (1 - D), so that its own entropy is taken away again; one
    that does not is paid g - log pi. Either maximises E[sum gamma^t log D / (1 - D)], of which rho_pi = rho_E, D = 1/2
    is the fixed point. g is no reward that means anything in another world; `airl` finds one. Noise does no harm here.

    Args:
        env: the world: what `cai.models.environment_model` makes, a continuous model with a box of actions, or a
            `TrajectoryModel`, on which all is exact. Its discount is used; its reward, temperature and prior are not.
        demos: `Demonstrations` (numbers), `ContinuousDemonstrations`, the `Transitions` of `cai.models.collect`,
            episodes of Minari or trajectories of imitation. Those that were cut count as far as they go; tables refuse
            them.
        learner: "soft-actor-critic" or "soft-q-learning" with options as in "soft-actor-critic:steps=20000", an
            instance of these, or a `NetworkBackend` of your own, whose class variable `adds_entropy` says what its
            networks do. On a `TrajectoryModel` "variational", the exact answer in each round.
        seed: of everything that is drawn.
        hidden_sizes: of the layers of g; () for linear functions of the observation.
        learning_rate: of the discriminator.
        recent: how many of the last transitions stand for the policy.
        rounds: on tables, at most.
        throw: whether anything but success raises.
        folder: where a run of networks is stored, demonstrations included; it is made if need be, and must hold no
            other run. `cai.resume(folder)` goes on from there, even after a crash, and returns the same bits.
        checkpoint_every: store after every so many transitions; None for what the learner says.
        checkpoint_seconds: store when so many seconds have passed since the last time.
        max_seconds: begin no step later than this, and judge what was learned so far.

    Returns:
        The policy, g as its reward, and how far the policy is from the demonstrations.

    Raises:
        ValueError, TypeError: on bad input; each says what was got, what was expected, and what to do.
        FitError: on anything but success, unless `throw=False`; its `estimate` holds what was found.
    """
    schedule = Schedule(folder, checkpoint_every, checkpoint_seconds, max_seconds)
    form = (False, hidden_sizes)
    return _adversarial("gail", env, demos, learner, seed, form, learning_rate, recent, rounds, throw, schedule)


def _adversarial(
    method: str,
    env: Any,
    demos: Any,
    learner: Any,
    seed: int,
    form: tuple[bool, Sequence[int]],
    learning_rate: float,
    recent: int,
    rounds: int,
    throw: bool,
    schedule: Schedule,
) -> AdversarialEstimate:
    backend, seed = make_backend(learner), check_seed(seed)
    if isinstance(env, TrajectoryModel):
        if not isinstance(backend, StructuredVariational):
            raise ValueError(
                f"learner is {backend.name!r}; on a TrajectoryModel all is exact with learner='variational'. To learn "
                "from samples there, make it an environment: cai.models.environment_model(lambda: "
                "cai.models.environment(model), discount=model.discount, temperature=1.0)"
            )
        if schedule.folder is not None or schedule.most < math.inf:
            raise ValueError(
                "on a TrajectoryModel all is exact, without a run that could be stored or cut short; leave out folder "
                "and max_seconds, limit rounds, and keep what is found by its save"
            )
        return judged(exact_estimate(method, env, demos, form[0], as_count(rounds, "rounds")), throw)
    if not isinstance(env, EnvironmentModel | World):
        raise TypeError(
            f"the world is a {type(env).__name__}; expected what cai.models.environment_model(...) makes, a continuous "
            "model, or a TrajectoryModel"
        )
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate is {learning_rate!r}; expected a number > 0")
    sizes = tuple(as_count(size, "hidden_sizes") for size in form[1])
    networks: Any = checked_learner(backend, env)
    pace = (float(learning_rate), as_count(recent, "recent"))
    run = adversarial_run(method, env, demos, networks, (form[0], sizes), pace)
    made, checkpoints = run.learner(networks, env), None
    if schedule.folder is not None:
        check_schedule(schedule.every, schedule.seconds)
        check_comes_back(networks)
        name = told_apart(begin_run(schedule.folder, networks, env, seed, run))
        every = made.checkpoint_every if schedule.every is None else schedule.every
        checkpoints = Checkpoints(Path(schedule.folder), steps=every, seconds=schedule.seconds, run=name)
    elif networks.tensorboard:
        raise ValueError("tensorboard=True writes to the folder of a run; give folder=, or leave it out")
    answer = drive(made, env, seed=seed, checkpoints=checkpoints, max_seconds=schedule.most)
    return run.result(answer, seed, throw)
