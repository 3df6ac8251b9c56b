"""Classes of policies that a restricted guide may choose from: tables, tied tables, what is observed, any module.

Levine 2018, section 3.2, end: the bound can be maximised under any constraint on q(a_t | s_t), such as a parametrised
distribution or a policy that sees only some function of the state. A class is a description; its parameters are made
anew by `start` for each fit, so a class can be used again and a user's module stays as it is. Everywhere the actions
that the prior rules out have probability 0, and so have those that would lead to a reward of -inf.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cai.inference.restricted.parameters import ModuleParameters, PolicyParameters, Shape, TiedParameters
from cai.models.common.checks import check_distribution, check_shape, float_tensor, index_tensor
from cai.models.common.random_draws import OwnDraws
from cai.models.common.storage import storable

__all__ = ["ModulePolicy", "ObservationPolicy", "PolicyClass", "StationaryPolicy", "TabularPolicy", "as_policy_class"]


class PolicyClass:
    """A set of policies q(a_t | s_t)."""

    @property
    def stationary(self) -> bool:
        """Whether a policy of the class is the same at all times, as an infinite horizon needs."""
        raise NotImplementedError

    def check(self, shape: Shape, infinite: bool) -> None:
        """Raises ValueError if the class does not fit a problem of this shape."""
        if infinite and not self.stationary:
            raise ValueError(
                f"the horizon is infinite and {type(self).__name__} differs over time; use StationaryPolicy() or "
                "another stationary class, or backend 'variational'"
            )

    def start(self, shape: Shape, log_prior: Tensor) -> PolicyParameters:
        """New parameters, as close to the prior as the class comes.

        Args:
            shape: of the policy.
            log_prior: [T, S, A] or [1, S, A], log p(a | s).
        """
        raise NotImplementedError


def _own_row(shape: Shape, stationary: bool, log_prior: Tensor) -> TiedParameters:
    states = torch.arange(shape.num_states)[:, None]
    return TiedParameters(shape, states, torch.ones_like(states).double(), shape.num_states, stationary, log_prior)


@storable("policy-class-tabular")
@dataclass(frozen=True)
class TabularPolicy(PolicyClass):
    """pi_t(a | s), free at each time and state: no restriction, so the optimum is the dynamic program's."""

    @property
    def stationary(self) -> bool:
        return False

    def start(self, shape: Shape, log_prior: Tensor) -> TiedParameters:
        return _own_row(shape, False, log_prior)


@storable("policy-class-stationary")
@dataclass(frozen=True)
class StationaryPolicy(PolicyClass):
    """pi(a | s), one table for all times."""

    @property
    def stationary(self) -> bool:
        return True

    def start(self, shape: Shape, log_prior: Tensor) -> TiedParameters:
        return _own_row(shape, True, log_prior)


@storable("policy-class-observation")
@dataclass(frozen=True, eq=False)
class ObservationPolicy(PolicyClass):
    """A memoryless policy mu(a | o) that sees an observation of the state alone: q(a|s) = sum_o p(o|s) mu(a|o).

    What the bound pays for is the KL of the mixture q(a | s) from the prior, since the observation is no part of the
    model. In a state where some actions are not available, the agent picks among those that are in the proportions of
    mu(. | o). Several policies can be local optima, see `RestrictedVariational.restarts`.

    Args:
        observations: int [S], which of Z observations each state shows, 0 to Z - 1; or [S, Z], p(o | s).
        stationary: whether one table serves all times.

    Raises:
        ValueError, TypeError: if it is neither.
    """

    observations: Any
    stationary: bool = True
    num_observations: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.stationary, bool):
            raise TypeError(f"stationary is {self.stationary!r}; expected True or False")
        values, source = float_tensor(self.observations, "observations")
        if values.dim() not in (1, 2) or 0 in values.shape:
            raise ValueError(
                f"observations has shape {list(values.shape)}; expected whole numbers [S], the observation of each "
                "state, or probabilities [S, Z], p(o | s)"
            )
        if values.dim() == 1:
            tensor = index_tensor(self.observations, "observations")
            if bool((tensor < 0).any()):
                raise ValueError(f"observations holds {int(tensor.min())}; observations are numbered from 0")
            number = int(tensor.max()) + 1
        else:
            tensor = check_distribution(values.detach(), "observations", source)
            number = tensor.shape[1]
        object.__setattr__(self, "observations", tensor)
        object.__setattr__(self, "num_observations", number)

    def check(self, shape: Shape, infinite: bool) -> None:
        super().check(shape, infinite)
        if self.observations.shape[0] != shape.num_states:
            raise ValueError(
                f"observations has shape {list(self.observations.shape)}; the problem has S = {shape.num_states} "
                "states, and each shows one: give [S] or [S, Z]"
            )

    def start(self, shape: Shape, log_prior: Tensor) -> TiedParameters:
        slots, chances = self.observations[:, None], torch.ones(shape.num_states, 1, dtype=torch.float64)
        if self.observations.dim() == 2:
            slots, chances = torch.arange(self.num_observations).expand(shape.num_states, -1), self.observations
        return TiedParameters(shape, slots, chances, self.num_observations, self.stationary, log_prior)


@dataclass(frozen=True, eq=False)
class ModulePolicy(PolicyClass):
    """Logits computed by any torch module: q(a | s_t) is proportional to p(a | s_t) exp(module(features)_a).

    The module is copied; the fitted copy, in float64 and in evaluation mode (no dropout), is `details["module"]`. Zero
    logits are the prior, and actions without prior mass, or that would lead to a reward of -inf, are masked.

    Args:
        module: from features [N, F] to logits [N, A].
        features: [S, F], [T, S, F], or a function of (states, times), int64 [N] each, that returns [N, F]. Unless
            given: one-hot of s_t and then t / T, t from 0 (and 0 over an infinite horizon), F = S + 1.
    """

    module: nn.Module
    features: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.module, type) or not isinstance(self.module, nn.Module):
            raise TypeError(
                f"module is {self.module!r}; expected a torch.nn.Module, from features [N, F] to logits [N, A]"
            )
        if not any(parameter.requires_grad for parameter in self.module.parameters()):
            raise ValueError("module has no parameters that require grad, so there is nothing to fit")
        if self.features is None or callable(self.features):
            return
        features = float_tensor(self.features, "features")[0].detach()
        if features.dim() not in (2, 3):
            raise ValueError(f"features has shape {list(features.shape)}; expected [S, F], [T, S, F] or a function")
        if not bool(torch.isfinite(features).all()):
            raise ValueError("features holds entries that are not finite")
        object.__setattr__(self, "features", features)

    @property
    def stationary(self) -> bool:
        """Whether the features are those of a state; a function is asked at time 0 over an infinite horizon."""
        return not isinstance(self.features, Tensor) or self.features.dim() == 2

    def check(self, shape: Shape, infinite: bool) -> None:
        super().check(shape, infinite)
        if isinstance(self.features, Tensor):
            wanted = (shape.num_states,) if self.features.dim() == 2 else (shape.steps, shape.num_states)
            letters = "[S, F]" if self.features.dim() == 2 else "[T, S, F]"
            check_shape(self.features, (*wanted, None), "features", letters)
        with torch.no_grad(), OwnDraws(0):
            zero = torch.zeros(1, dtype=torch.int64)
            uniform = torch.zeros(1, shape.num_actions, dtype=torch.float64)
            if not bool(torch.isfinite(self.start(shape, uniform).log_probs(0, zero, uniform)).all()):
                raise ValueError("module returned logits that are not finite; look at its parameters")

    def start(self, shape: Shape, log_prior: Tensor) -> ModuleParameters:
        return ModuleParameters(shape, copy.deepcopy(self.module), self.features)


def as_policy_class(policy: Any) -> PolicyClass:
    """A policy class, or the class of a bare module.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(policy, PolicyClass):
        return policy
    if isinstance(policy, nn.Module):
        return ModulePolicy(policy)
    advice = f"; pass an instance: {policy.__name__}(...)" if isinstance(policy, type) else ""
    raise TypeError(
        f"policy is {policy!r}; expected TabularPolicy(), StationaryPolicy(), ObservationPolicy(...), "
        f"ModulePolicy(...) or a torch.nn.Module{advice}"
    )
