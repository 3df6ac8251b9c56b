"""What is timed: a library's way of doing one job, prepared outside the timing; and `cai`'s own ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from benchmarks.workloads import Workload

__all__ = ["Contender", "Job", "NotOffered", "library_contenders", "make_model"]

Job = Literal["fixed", "exact", "gradient", "statistics"]


class NotOffered(RuntimeError):
    """A library does not do a job, or not here; the message says why."""


@dataclass(frozen=True)
class Contender:
    """One library on one job.

    Attributes:
        name: what tables call it.
        job: "fixed", values of every step under fixed dynamics; "exact", those of sum-product; "gradient", the
            derivative of log evidence by the reward; "statistics", expected return, luck and marginals beside the
            values of sum-product.
        prepare: makes, from a workload, the call that is timed. Raises `NotOffered`, or ImportError where the
            library is not installed.
        read: makes an array from what the call returns: values, with those of the first step at [0], [..., S] in
            nats or [N, ..., S]; the gradient [S, A].
        agrees: whether the result is that of `cai`, so that the harness holds it against it. A hard maximum is not.
        note: what it does differently.
    """

    name: str
    job: Job
    prepare: Callable[[Workload], Callable[[], Any]]
    read: Callable[[Any], np.ndarray] = np.asarray
    agrees: bool = True
    note: str = ""


def library_contenders(workload: Workload) -> list[Contender]:
    """`cai` on every job of a workload, as a user gets it who sets nothing, and by its torch kernel.

    Args:
        workload: what is asked.
    """
    found = []
    for name, options in (("cai", {}), ("cai, torch", {"kernel": "torch"})):
        exact = Contender(name, "exact", _passes("exact", **options), _read_values)
        if workload.gradient:
            found.append(Contender(name, "gradient", partial(_gradient, **options), _read_gradient))
            found.append(replace(exact, note="the value pass alone"))
        elif workload.name == "F":
            found.append(exact)
            found.append(Contender(name, "statistics", partial(_statistics, **options), _read_values))
        else:
            found.append(Contender(name, "fixed", _passes("variational", **options), _read_values))
            found.append(exact)
    return found


def make_model(workload: Workload, reward: Any = None) -> Any:
    """The `TrajectoryModel` of a workload, a batch of models where there are many rewards.

    Args:
        workload: what is asked.
        reward: a tensor [S, A] in place of the workload's.
    """
    import torch

    from cai.models import MDP, TrajectoryModel

    if workload.next_states is None:
        mdp = MDP(workload.probabilities, workload.initial)
    else:
        mdp = MDP.from_successors(workload.next_states, workload.probabilities, workload.initial)
    if reward is None:
        reward = torch.from_numpy(workload.reward)
    if workload.outcome_reward is not None:
        reward = reward[..., None] + torch.from_numpy(workload.outcome_reward)
        return TrajectoryModel(mdp, reward, workload.horizon)
    if reward.dim() == 3:
        return TrajectoryModel(mdp, reward[0], workload.horizon).batch(reward=reward)
    return TrajectoryModel(mdp, reward, workload.horizon)


def _passes(backend: str, **options: Any) -> Callable[[Workload], Callable[[], Any]]:
    def prepare(workload: Workload) -> Callable[[], Any]:
        import cai

        model = make_model(workload)

        def call() -> Any:
            posterior = cai.infer(model, backend, **options)
            posterior.values  # noqa: B018, what may be computed when it is first looked at is part of the answer
            return posterior

        return call

    return prepare


def _statistics(workload: Workload, **options: Any) -> Callable[[], Any]:
    import cai

    model = make_model(workload)

    def call() -> Any:
        posterior = cai.infer(model, "exact", **options)
        posterior.values, posterior.believed_return, posterior.luck, posterior.state_marginals  # noqa: B018
        return posterior

    return call


def _read_values(posterior: Any) -> np.ndarray:
    return posterior.values.numpy()


def _gradient(workload: Workload, **options: Any) -> Callable[[], Any]:
    import torch

    import cai

    reward = torch.from_numpy(workload.reward).clone().requires_grad_()
    model = make_model(workload, reward)

    def call() -> Any:
        reward.grad = None
        cai.infer(model, "exact", keep="evidence", **options).log_evidence.backward()
        return reward.grad

    return call


def _read_gradient(gradient: Any) -> np.ndarray:
    return gradient.numpy()
