"""Runs of AIRL and GAIL by networks: what is learned, what its folder holds, and what is made of the end of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.posterior import Posterior
from cai.inference.core.status import Status
from cai.inference.learning.network_backend import NetworkBackend
from cai.inference.learning.networks.experience.interface import Interface, interface_of
from cai.inference.learning.networks.runs.learner import NetworkLearner
from cai.inference.learning.networks.updates.brain import Brain
from cai.inference.learning.networks.updates.temperature import Target
from cai.inverse.adversarial.brain import AdversarialBrain
from cai.inverse.adversarial.discriminator import Discriminator, Steps
from cai.inverse.adversarial.estimate import AdversarialEstimate, NetworkReward, judged
from cai.inverse.adversarial.judge import fresh_steps, measured_divergence
from cai.inverse.adversarial.shown import read_steps
from cai.inverse.estimation.status import FitStatus
from cai.models.common.storage import storable

__all__ = ["AdversarialRun", "adversarial_run", "checked_learner"]

INDISTINGUISHABLE = 0.02  # nats of Jensen-Shannon divergence
ENOUGH = 200  # steps of demonstrations, with fewer of which that is not seen


@storable("adversarial-run")
@dataclass(frozen=True, eq=False)
class AdversarialRun:
    """A `Purpose` of runs: a policy and its reward, against a discriminator.

    Args:
        discriminator: its networks.
        shown: the demonstrations, step by step.
        owners: int64 [M], of which demonstration each step is.
        learning_rate: of the discriminator.
        recent: how many of the last transitions stand for the policy.
    """

    discriminator: Discriminator
    shown: Steps
    owners: Tensor
    learning_rate: float
    recent: int

    def learner(self, backend: Any, model: Any) -> NetworkLearner:
        """The learner of a backend, whose rewards come from the discriminator.

        Raises:
            ValueError: if it has no networks, learns its temperature, or does not fit the world.
        """
        backend = checked_learner(backend, model)

        def brain(world: Any, interface: Interface, generator: torch.Generator) -> Brain:
            asked = backend.setting(world, interface)._replace(temperature=1.0, target=Target(), log_prior=None)
            inner = backend.first_brain(asked, generator)
            parts = (self.discriminator, self.shown, self.learning_rate, self.recent)
            return AdversarialBrain(inner, backend.adds_entropy, *parts, generator)

        made = backend.learner(model)
        assert isinstance(made, NetworkLearner)
        return dataclasses.replace(made, brain=brain, label=f"learning by {self.discriminator.method.upper()}")

    def result(self, answer: Posterior, seed: int, throw: bool) -> AdversarialEstimate:
        """The estimate at the end of a run.

        Raises:
            FitError: on anything but success, if `throw` is True.
        """
        brain: AdversarialBrain = answer.brain
        discriminator, number = self.discriminator, len(self.owners)
        divergence, status = torch.nan, FitStatus.SUCCESS
        warnings: tuple[str, ...] = ()
        if answer.status is not Status.UNSTABLE:  # of which no policy is left that could act
            longest = int(torch.bincount(self.owners).max())
            done = fresh_steps(answer.model, discriminator.interface, brain, longest, number, seed)
            divergence = measured_divergence(discriminator, (self.shown, self.owners), done, seed)
        if not answer.status.ok:
            status = FitStatus.UNSTABLE if answer.status is Status.UNSTABLE else FitStatus.NOT_CONVERGED
            warnings = (f"the learner ended with status {answer.status.label!r}: {answer.details.get('why', '')}",)
        elif number < ENOUGH:
            status = FitStatus.DISTINGUISHABLE
            warnings = (f"the demonstrations hold {number} steps, too few to say; from {ENOUGH} on they can be judged",)
        elif divergence > INDISTINGUISHABLE:
            status = FitStatus.DISTINGUISHABLE
        estimate = AdversarialEstimate(
            discriminator.method,
            answer.policy(),
            NetworkReward(discriminator, brain.flat.clone()),
            brain.loss,
            divergence,
            status,
            warnings,
            int(answer.details["steps"]),
            answer.details["history"],
        )
        return judged(estimate, throw)


def adversarial_run(
    method: str,
    world: Any,
    demonstrations: Any,
    backend: NetworkBackend,
    form: tuple[bool, tuple[int, ...]],
    pace: tuple[float, int],
) -> AdversarialRun:
    """What is to be learned of demonstrations in a world.

    Args:
        method: "airl" or "gail".
        world: an `EnvironmentModel` or a continuous model.
        demonstrations: see `cai.inverse.airl`.
        backend: the learner.
        form: of the discriminator: whether its reward is of states alone, and the sizes of its layers.
        pace: its learning rate, and how many transitions stand for the policy.

    Raises:
        TypeError, ValueError: if demonstrations do not fit the world.
    """
    interface = interface_of(world, backend.name)
    shown, owners = read_steps(world, interface, demonstrations)
    center, scale = torch.zeros(interface.size), torch.ones(interface.size)
    if not interface.categories:  # inputs are scaled by what demonstrations show
        weights = shown.weights[:, None] / shown.weights.sum()
        center = (weights * shown.observations).sum(0)
        spread: Tensor = (weights * (shown.observations - center).square()).sum(0).sqrt()
        scale = torch.where(spread > 1e-3 * (1 + center.abs()), spread, torch.ones_like(spread))
    net = Discriminator(interface, method, form[1], float(world.discount), form[0], center, scale)
    return AdversarialRun(net, shown, owners, *pace)


def checked_learner(backend: Any, world: Any) -> NetworkBackend:
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
    if backend.network is not None:
        raise ValueError(
            f"the learner {backend.name!r} has network=, a module for images, and the discriminator has none; leave "
            "it out, or let a wrapper of the environment turn images into features"
        )
    dataclasses.replace(backend, entropy_form=False).supports(world)
    return dataclasses.replace(backend, entropy_form=True)
