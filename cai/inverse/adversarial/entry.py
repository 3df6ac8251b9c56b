"""AIRL and GAIL: rewards and policies from demonstrations, by a policy against a discriminator."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cai.inference.backends.variational import StructuredVariational
from cai.inference.core.driver import drive
from cai.inference.learning.network_backend import NetworkBackend
from cai.inference.learning.networks.brain import Brain, Setting
from cai.inference.learning.networks.interface import Interface, interface_of
from cai.inference.learning.networks.learner import NetworkLearner
from cai.inference.learning.networks.temperature import Target
from cai.inference.registry import make_backend
from cai.inverse.adversarial.brain import AdversarialBrain
from cai.inverse.adversarial.discriminator import Discriminator, Steps
from cai.inverse.adversarial.estimate import AdversarialEstimate, NetworkReward
from cai.inverse.adversarial.exact import exact_estimate
from cai.inverse.adversarial.judge import fresh_steps, measured_divergence
from cai.inverse.adversarial.shown import read_steps
from cai.inverse.estimation.status import FitError, FitStatus
from cai.models.common.checks import as_count
from cai.models.continuous.world import World
from cai.models.environments.world import EnvironmentModel
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["airl", "gail"]

INDISTINGUISHABLE = 0.02  # nats of Jensen-Shannon divergence
ENOUGH = 200  # steps of demonstrations, with fewer of which that is not seen
RECENT = 1000  # transitions that stand for the policy


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

    Returns:
        The policy, the reward, and how far the policy is from the demonstrations.

    Raises:
        ValueError, TypeError: on bad input; each says what was got, what was expected, and what to do.
        FitError: on anything but success, unless `throw=False`; its `estimate` holds what was found.
    """
    return _adversarial(
        "airl", env, demos, learner, seed, state_only, hidden_sizes, learning_rate, recent, rounds, throw
    )


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

    Returns:
        The policy, g as its reward, and how far the policy is from the demonstrations.

    Raises:
        ValueError, TypeError: on bad input; each says what was got, what was expected, and what to do.
        FitError: on anything but success, unless `throw=False`; its `estimate` holds what was found.
    """
    return _adversarial("gail", env, demos, learner, seed, False, hidden_sizes, learning_rate, recent, rounds, throw)


def _adversarial(
    method: str,
    env: Any,
    demos: Any,
    learner: Any,
    seed: int,
    state_only: bool,
    hidden_sizes: Sequence[int],
    learning_rate: float,
    recent: int,
    rounds: int,
    throw: bool,
) -> AdversarialEstimate:
    backend = make_backend(learner)
    if isinstance(env, TrajectoryModel):
        if not isinstance(backend, StructuredVariational):
            raise ValueError(
                f"learner is {backend.name!r}; on a TrajectoryModel all is exact with learner='variational'. To learn "
                "from samples there, make it an environment: cai.models.environment_model(lambda: "
                "cai.models.environment(model), discount=model.discount, temperature=1.0)"
            )
        estimate = exact_estimate(method, env, demos, state_only, as_count(rounds, "rounds"))
    elif isinstance(env, EnvironmentModel | World):
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate is {learning_rate!r}; expected a number > 0")
        form = (state_only, tuple(as_count(size, "hidden_sizes") for size in hidden_sizes))
        pace = (learning_rate, as_count(recent, "recent"))
        estimate = _learned(method, env, demos, _checked(backend, env), seed, form, pace)
    else:
        raise TypeError(
            f"the world is a {type(env).__name__}; expected what cai.models.environment_model(...) makes, a continuous "
            "model, or a TrajectoryModel"
        )
    if throw and not estimate.status.ok:
        raise FitError(estimate.status, estimate, "; ".join(estimate.warnings))
    return estimate


def _checked(backend: Any, world: Any) -> NetworkBackend:
    """The learner in the entropy form.

    Raises:
        ValueError: if it has no networks, learns its temperature, or does not fit the world.
    """
    if not isinstance(backend, NetworkBackend) or backend.learns_from_paths:
        raise ValueError(
            f"learner is {getattr(backend, 'name', backend)!r}; expected one with networks that learns from "
            "single steps, 'soft-actor-critic' or 'soft-q-learning'"
        )
    if not backend.has_density:
        raise ValueError(
            f"learner is {backend.name!r}, whose policy has no density, and the discriminator reads log pi; take "
            "'soft-actor-critic', e.g. with policy='flow'"
        )
    if any(getattr(backend, name, None) is not None for name in ("target_entropy", "target_kl")):
        raise ValueError(
            f"the learner {backend.name!r} is to learn its temperature, and here it is 1: what is learned is a "
            "reward over the temperature; leave target_entropy and target_kl out"
        )
    dataclasses.replace(backend, entropy_form=False).supports(world)
    return dataclasses.replace(backend, entropy_form=True)


def _learned(
    method: str,
    world: Any,
    demos: Any,
    backend: NetworkBackend,
    seed: int,
    form: tuple[bool, tuple[int, ...]],
    pace: tuple[float, int],
) -> AdversarialEstimate:
    """By networks."""
    interface = interface_of(world, backend.name)
    shown = read_steps(world, interface, demos)
    discriminator = _discriminator(method, interface, shown[0], float(world.discount), form)

    def brain(model: Any, interface: Interface, generator: torch.Generator) -> Brain:
        setting = Setting(
            interface,
            backend.hidden_sizes,
            backend.learning_rate,
            float(model.discount),
            1.0,
            Target(),
            None,
            True,
            backend.smoothing,
        )
        inner = backend.make_brain(setting, generator)
        return AdversarialBrain(inner, backend.adds_entropy, discriminator, shown[0], *pace, generator)

    made = backend.learner(world)
    assert isinstance(made, NetworkLearner)
    learner = dataclasses.replace(made, brain=brain, label=f"learning by {method.upper()}")
    answer = drive(learner, world, seed=seed)
    judged: AdversarialBrain = answer.brain
    longest = int(torch.bincount(shown[1]).max())
    done = fresh_steps(world, interface, judged, longest, len(shown[1]), seed)
    divergence = measured_divergence(discriminator, shown, done, seed)
    warnings: tuple[str, ...] = ()
    status = FitStatus.SUCCESS
    if not answer.status.ok:
        status = FitStatus.NOT_CONVERGED
        warnings = (f"the learner ended with status {answer.status.label!r}: {answer.details.get('why', '')}",)
    elif len(shown[1]) < ENOUGH:
        status = FitStatus.DISTINGUISHABLE
        warnings = (
            f"the demonstrations hold {len(shown[1])} steps, too few to say; from {ENOUGH} on they can be judged",
        )
    elif divergence > INDISTINGUISHABLE:
        status = FitStatus.DISTINGUISHABLE
    return AdversarialEstimate(
        method,
        answer.policy(),
        NetworkReward(discriminator, judged.flat.clone()),
        judged.loss,
        divergence,
        status,
        warnings,
        int(answer.details["steps"]),
        answer.details["history"],
    )


def _discriminator(
    method: str, interface: Interface, shown: Steps, discount: float, form: tuple[bool, tuple[int, ...]]
) -> Discriminator:
    """Its networks, with inputs scaled by what demonstrations show."""
    center, scale = torch.zeros(interface.size), torch.ones(interface.size)
    if not interface.categories:
        weights = shown.weights[:, None] / shown.weights.sum()
        center = (weights * shown.observations).sum(0)
        spread: Tensor = (weights * (shown.observations - center).square()).sum(0).sqrt()
        scale = torch.where(spread > 1e-3 * (1 + center.abs()), spread, torch.ones_like(spread))
    return Discriminator(interface, method, form[1], discount, form[0], center, scale)
