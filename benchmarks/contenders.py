"""What is timed: a library's way of doing one job, prepared outside the timing; and `cai`'s own ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from benchmarks.workloads import Workload

__all__ = ["Contender", "Job", "NotOffered", "library_contenders", "make_model"]

Job = Literal["fixed", "exact", "gradient"]


class NotOffered(RuntimeError):
    """A library does not do a job, or not here; the message says why."""


@dataclass(frozen=True)
class Contender:
    """One library on one job.

    Attributes:
        name: what tables call it.
        job: "fixed", values of every step under fixed dynamics; "exact", those of sum-product; "gradient", the
            derivative of log evidence by the reward.
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


def library_contenders(workload: Workload, *, compiled: bool = True) -> list[Contender]:
    """`cai` on every job of a workload, by the kernel that it chooses, by the native one and by `torch.compile`.

    Args:
        workload: what is asked.
        compiled: whether to time the compiled kernel, too (it takes 5 to 20 s to warm up).
    """
    if workload.gradient:
        return [
            contender
            for name, kernel in (("cai", "auto"), ("cai, native", "native"))
            for contender in (
                Contender(name, "gradient", partial(_gradient, kernel=kernel), _read_gradient),
                Contender(name, "exact", _passes("exact", kernel), _read_values, note="the value pass alone"),
            )
        ]
    kernels = [("cai", "auto"), ("cai, native", "native")]
    return [
        Contender(name, job, _passes(backend, kernel), _read_values)
        for name, kernel in kernels
        for job, backend in (("fixed", "variational"), ("exact", "exact"))
    ]


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
    if reward.dim() == 3:
        return TrajectoryModel(mdp, reward[0], workload.horizon).batch(reward=reward)
    return TrajectoryModel(mdp, reward, workload.horizon)


def _passes(backend: str, kernel: str) -> Callable[[Workload], Callable[[], Any]]:
    def prepare(workload: Workload) -> Callable[[], Any]:
        import cai

        model = make_model(workload)
        return lambda: cai.infer(model, backend, keep="values", kernel=kernel)

    return prepare


def _read_values(posterior: Any) -> np.ndarray:
    return posterior.values.numpy()


def _gradient(workload: Workload, kernel: str) -> Callable[[], Any]:
    import torch

    import cai

    reward = torch.from_numpy(workload.reward).clone().requires_grad_()
    model = make_model(workload, reward)

    def call() -> Any:
        reward.grad = None
        cai.infer(model, "exact", keep="evidence", kernel=kernel).log_evidence.backward()
        return reward.grad

    return call


def _read_gradient(gradient: Any) -> np.ndarray:
    return gradient.numpy()
