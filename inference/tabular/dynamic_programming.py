"""What every backend reads off a recursion on tables: messages of the whole horizon, and the answer they stand for."""

from __future__ import annotations

import contextlib
import math
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.backend import require_model
from cai.inference.core.lazy import lazy, table, view
from cai.inference.core.status import Status, Target
from cai.inference.core.storage import storable
from cai.inference.kernels.backups import soft_log_policy, soft_policy
from cai.inference.kernels.choose import check_kernel
from cai.inference.tabular.backward import KEEP, Messages, backward, occupancies
from cai.inference.tabular.believed_dynamics import FixedDynamics, OutcomeDynamics
from cai.inference.tabular.markov.chains import can_succeed, expected_visits, pays_for_ever
from cai.inference.tabular.posterior import ModelPosterior, in_reward_units
from cai.inference.tabular.recursion import EXACT, FIXED, Choice, Recursion
from cai.inference.tabular.stationary.average import average_messages
from cai.inference.tabular.stationary.iteration import ConvergenceCriterion, stationary_messages
from cai.models.common.numerics import rounding
from cai.models.common.threads import spare_core
from cai.models.trajectory.model import TrajectoryModel

__all__ = [
    "RecursionPosterior",
    "check_keep",
    "check_settling",
    "check_soft_options",
    "closed_form_posterior",
    "failure_status",
    "messages_posterior",
    "optimality_possible",
    "require_finite",
    "require_model",
]


def require_finite(model: Any, backend: str, instead: str) -> None:
    """Raises ValueError unless `model` is a `TrajectoryModel` with a finite horizon."""
    require_model(model, backend, "'enumeration'")
    if not model.is_finite:
        raise ValueError(
            f"backend {backend!r} needs a finite horizon, and this model's is infinite; give horizon=N, "
            f"or use {instead}"
        )


def check_settling(tolerance: float, max_iterations: int) -> None:
    """Refuses a tolerance or a number of backups that make no sense."""
    if max_iterations < 1:
        raise ValueError(f"max_iterations is {max_iterations}; it must be >= 1")
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}; it must be > 0")
    if tolerance == math.inf:
        raise ValueError("tolerance is inf, with which no answer is wrong; give a finite number")


def check_soft_options(tolerance: float, max_iterations: int, keep: str, kernel: str) -> None:
    """`check_settling` and `check_keep`."""
    check_settling(tolerance, max_iterations)
    check_keep(keep, kernel)


def check_keep(keep: str, kernel: str) -> None:
    """Refuses words that say nothing about what to keep, or how to compute."""
    if keep in ("all", "policy"):
        raise ValueError(
            f"keep={keep!r} is gone: leave it out, or say keep='values'; q-values and policies are computed "
            "when they are first looked at, and then held"
        )
    if keep not in KEEP:
        raise ValueError(f"keep is {keep!r}; expected one of {', '.join(KEEP)}")
    if kernel != "auto":
        check_kernel(kernel)


def closed_form_posterior(
    model: TrajectoryModel,
    recursion: Recursion,
    *,
    backend: str,
    target: Target,
    settling: ConvergenceCriterion,
    acts: Choice | None = None,
    details: dict[str, Any] | None = None,
    keep: str = "values",
    kernel: str = "auto",
) -> RecursionPosterior:
    """Answers a model by dynamic programming.

    Args:
        model: the trajectory model.
        recursion: how to back up and choose.
        backend: the name of the backend.
        target: for `exact` and `fixed-dynamics` the last message is the bound; for others the bound is what q attains.
        settling: when an infinite horizon stops.
        acts: how q chooses actions on the recursion's q-values, where that is not the recursion's own choice.
        details: further numbers of the backend.
        keep: what of a finite horizon stays in memory, see `backward`.
        kernel: see `backward`.
    """
    found, status, attaining, known = dict(details or {}), Status.SUCCESS, None, None
    policy = None
    with spare_core() if torch.get_num_threads() > 1 else contextlib.nullcontext():
        if model.is_finite:
            messages = backward(model, recursion, keep=keep, kernel=kernel)
        else:
            solve = average_messages if model.is_average else stationary_messages
            stationary = solve(model, recursion, settling)
            messages, status = stationary.messages, stationary.status
            found |= stationary.details
            attaining, known = stationary.chosen, stationary.known
        if acts is not None:
            policy = torch.stack([acts(model, q_values, model.log_action_prior)[1] for q_values in messages.q_values])
        start = messages.start
        if status.ok and not math.isfinite(float(start.detach())):
            status = failure_status(model, recursion)
        return messages_posterior(
            model,
            recursion,
            messages,
            status,
            backend=backend,
            target=target,
            policy=policy,
            details=found,
            attaining=attaining,
            known=known,
            keep=keep,
            kernel=kernel,
        )


def messages_posterior(
    model: TrajectoryModel,
    recursion: Recursion,
    messages: Messages,
    status: Status,
    *,
    backend: str,
    target: Target,
    policy: Tensor | None = None,
    details: dict[str, Any] | None = None,
    attaining: Tensor | None = None,
    known: dict[str, Any] | None = None,
    keep: str = "values",
    kernel: str = "auto",
) -> RecursionPosterior:
    """The answer that backward messages stand for; over an infinite horizon that failed, what is left of it.

    Args:
        model: the trajectory model.
        recursion: which dynamics the messages believe in.
        messages: over the whole horizon.
        status: how their computation ended.
        backend: the name of the backend.
        target: for `exact` and `fixed-dynamics` the last message is the bound; for others the bound is what q attains.
        policy: [T, S, A], of q; that of the messages unless given.
        details: further numbers of the backend.
        attaining: int64 [S], over an infinite horizon, actions that reach the values of hard control.
        known: further parts of the answer by name, `visits` among them where the criterion is the average.
        keep: "evidence" computes tables at every look; else they are held once they were computed.
        kernel: how sums over outcomes are computed.
    """
    found, bound = dict(details or {}), messages.start
    if model.optimality != "factor":
        bound = bound + model.evidence_offset
    if messages.kernel is not None:
        found["kernel"] = messages.kernel
    parts: dict[str, Any] = {"backend": backend, "target": target, "model": model, "horizon": model.horizon}
    parts |= {"recursion": recursion, "messages": messages, "kernel": kernel, "holds_tables": keep != "evidence"}
    parts |= known or {}
    if policy is not None:
        parts["action_probs"] = policy
    elif attaining is not None:
        parts["attaining"] = attaining
    if not status.ok:
        parts |= {"initial": model.mdp.initial, "world": FixedDynamics(model)}
    if not model.is_finite and not model.is_average and status.ok:
        settled = RecursionPosterior(**parts, status=status)
        try:
            parts["visits"] = expected_visits(model, settled.initial, settled.action_probs, settled.world)
            if pays_for_ever(model, settled.action_probs[0], settled.world):
                parts |= {"policy_divergence": bound.new_full((), math.inf), "elbo": bound.new_full((), -math.inf)}
        except ValueError as error:  # values settle, but what q believes never ends
            status, found["why"] = Status.NOT_ASSURED, str(error).split(",")[0]
    if not model.is_finite and not status.ok:
        return _without_expectations(model, target, status, messages, parts | {"details": found})
    if target is Target.EXACT:
        parts["log_evidence"] = bound
    if target is not Target.OTHER or not status.ok:
        parts["elbo"] = bound
    return RecursionPosterior(**parts, status=status, details=found | {"start": messages.start.detach()})


class RecursionPosterior(ModelPosterior):
    """The answer of dynamic programming: backward messages, of which all else is computed when it is looked at.

    Attributes:
        recursion: how they were passed, and so which dynamics they believe in.
        messages: in nats.
        kernel: how sums over outcomes are computed.
        attaining: int64 [S], of hard control over an infinite horizon: among equally good actions one by which the
            value is reached, -1 where nothing is; None elsewhere.
    """

    recursion: Recursion
    messages: Messages
    kernel: str
    attaining: Tensor | None = None

    @view
    def values(self) -> Tensor | None:
        """[T, S], soft values in reward units; -inf where optimality is impossible."""
        return in_reward_units(self.messages.values[: self.steps], self.model.temperature)

    @view
    def q_values(self) -> Tensor | None:
        """[T, S, A], in reward units."""
        return in_reward_units(self.messages.q_values, self.model.temperature)

    # [T, S, A], q(a_t | s_t); the action prior where the row cannot matter.
    action_probs = view[Tensor](attrgetter("messages.policy"))

    def _most_probable_actions(self, probs: Tensor) -> Tensor:
        best = super()._most_probable_actions(probs)
        if self.attaining is not None:
            return torch.where(self.attaining >= 0, self.attaining, best)
        if not self.chooses_softly:
            return best
        q_values, prior = self.messages.q_values.detach(), self.messages.log_prior
        finite = torch.where(torch.isfinite(q_values), q_values, torch.zeros_like(q_values))
        size = max(float(finite.abs().max()), self.model.reward_size / float(torch.as_tensor(self.model.temperature)))
        if size >= 1:
            return best
        # Q-values that are tiny beside the temperature tell apart what probabilities round to equals.
        prior = (self.model.log_action_prior if prior is None else prior).detach()
        prior = prior - prior.amax(-1, keepdim=True)
        scores = torch.where(prior > -rounding(prior), torch.zeros_like(prior), prior) + q_values
        largest = scores.amax(-1, keepdim=True)
        found = (scores >= largest - rounding(scores) * size).to(torch.uint8).argmax(-1)
        return torch.where(torch.isfinite(largest[..., 0]), found, best)

    @lazy
    def chooses_softly(self) -> bool:
        """Whether q(a | s) is p(a | s) e^{q - v}, and so known from the messages however small it is."""
        return self.recursion.choice is soft_policy and "action_probs" not in self.__dict__

    def _log_policy(self, t: int) -> Tensor:
        if not self.chooses_softly or bool((self.action_probs[t] > 0).all()):
            return super()._log_policy(t)
        prior = self.messages.log_prior
        return soft_log_policy(self.model, self.messages.q_values[t], None if prior is None else prior[t])

    @lazy
    def initial(self) -> Tensor:
        """[S], q(s_1)."""
        if math.isinf(self.recursion.eta):  # which starts are equals is told by what follows
            return self.recursion.beliefs(self.model, self.messages.values)[0]
        return self.recursion.believed_start(self.model, self.messages.first_values)

    @table
    def world(self) -> OutcomeDynamics:  # type: ignore[override]  # a frozen attribute, which nobody sets
        """Q's dynamics over the listed outcomes."""
        return self.recursion.beliefs(self.model, self.messages.values)[1]

    @table
    def visits(self) -> tuple[Tensor, Tensor] | None:
        """(marginals [T + 1, S], absorbed [T + 1]) by one forward sweep of a soft recursion."""
        own = "action_probs" not in self.__dict__
        if not (self.model.is_finite and self.status.ok and own and _soft_kind(self.recursion)):
            return None
        if self.messages.start.requires_grad:
            return None
        return occupancies(self.model, self.recursion, self.initial, self.messages.values, self.kernel)

    def _stored(self) -> dict[str, Any]:
        if _soft_kind(self.recursion) is None:  # Python functions, of which files hold what they found
            _ = self.initial, self.world, self.chooses_softly
        return super()._stored() | {"recursion": _soft_kind(self.recursion), "kernel": "auto"}


def failure_status(model: TrajectoryModel, recursion: Recursion) -> Status:
    """Why the start is worth -inf: the dynamics are held fixed, or optimality is impossible."""
    possible = recursion.eta <= 0 and optimality_possible(model)
    return Status.UNAVOIDABLE if possible else Status.IMPOSSIBLE


def optimality_possible(model: TrajectoryModel) -> bool:
    """Whether p(O) > 0, to tell what is impossible from what cannot be avoided."""
    if not model.is_finite:
        return can_succeed(model)
    with torch.no_grad():
        return math.isfinite(float(backward(model, EXACT, keep="evidence").start))


def _without_expectations(
    model: TrajectoryModel, target: Target, status: Status, messages: Messages, parts: dict[str, Any]
) -> RecursionPosterior:
    """What is left where an infinite horizon has no answer: the status, and messages unless they diverged."""
    nothing = messages.start if status in (Status.IMPOSSIBLE, Status.UNAVOIDABLE) else None
    unknown = dict.fromkeys(("luck", "policy_divergence", "policy_entropy"))
    parts = parts | unknown | {"initial": model.mdp.initial, "world": FixedDynamics(model)}
    parts |= {"log_evidence": nothing if target is Target.EXACT else None, "elbo": nothing, "believed_return": nothing}
    zero = torch.zeros_like(model.mdp.initial)
    parts |= {"state_marginals": zero[None], "absorbed": zero.new_zeros(1)}
    if status is Status.DIVERGED:
        parts |= {"values": None, "q_values": None, "action_probs": model.action_prior[None]}
    return RecursionPosterior(**parts, status=status)


# Files hold soft recursions by their kind, and of others what they found; kernels are chosen anew where they are read.
_SOFT = {"exact": EXACT, "fixed": FIXED, None: None}


def _soft_kind(recursion: Recursion | None) -> str | None:
    return recursion.kind if recursion is not None and recursion.is_soft else None


def _pack_messages(messages: Messages) -> dict[str, Any]:
    parts = {name: part for name, part in messages._state().items() if name != "_records"}
    if "recursion" in parts:
        parts |= {"recursion": _soft_kind(messages.recursion), "kernel": "auto"}
    return parts


def _unpack_messages(parts: dict[str, Any]) -> Messages:
    with torch.no_grad():
        return Messages(**parts | ({"recursion": _SOFT[parts["recursion"]]} if "recursion" in parts else {}))


def _unpack(parts: dict[str, Any]) -> RecursionPosterior:
    found = RecursionPosterior._from_stored(parts | {"recursion": _SOFT[parts["recursion"]]})
    assert isinstance(found, RecursionPosterior)
    return found


storable("messages", pack=_pack_messages, unpack=_unpack_messages)(Messages)
storable("recursion-posterior", pack=RecursionPosterior._stored, unpack=_unpack)(RecursionPosterior)
