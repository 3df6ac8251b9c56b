"""Backend "policy-gradient": the gradient of the bound from the policy's own samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from cai.inference.learning.network_backend import NetworkBackend
from cai.inference.learning.networks.updates.brain import Setting
from cai.inference.learning.networks.updates.policy_gradient import PolicyGradientNetworks
from cai.inference.learning.options import check_share, copies_of
from cai.inference.learning.tables.policy_gradient import PolicyGradientRule
from cai.inference.learning.tables.world import TableWorld
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["PolicyGradient"]

TABLE_LAMBDA, NETWORK_LAMBDA = 0.5, 0.95


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(NetworkBackend):
    """Maximises the bound by its gradient: grad log pi times soft advantages, generalised advantage estimation.

    Levine 2018, section 4.1, equations (16) to (18) (which print the entropy with the wrong sign in J); Schulman 2016
    for the estimate, with the soft reward r - alpha log pi/p in it, entropy term included: deltas without that term
    beside a soft V are right at lambda = 0 alone.

    On a `TrajectoryModel` logits and V are tables, and the gradient is taken in its natural form, entry by entry. A
    gradient is local: whoever has learned to keep away from a cliff does not find what lies behind it, so there some
    copies explore, and what follows on their actions is weighted by the policy's chances over theirs. Over a finite
    horizon, where no reward depends on time, a step is looked at as if it had been met at the other times, too; over an
    infinite one states whose actions have each had one outcome so far are valued by these, and not by samples.

    Elsewhere they are networks. `buffer_size` transitions of the present policy are gathered, over all copies of the
    world, then learned from in `updates_per_step` updates for each of them, and thrown away; the weight pi / pi_old of
    a step has no gradient beyond `clip` (Schulman 2017b), so that a policy moves by about that share with each buffer:
    one that is far from the prior takes many of them, which a smaller `buffer_size` gives. The exact gradient weighs
    the step at t by gamma^t, which is left out here, as everywhere: what is followed is another direction, with the
    same optimum where networks can show every policy.

    Args:
        gae_lambda: lambda in [0, 1] of the advantage estimates; unless given 0.95, and 0.5 on tables, where V is
            learned well and what it saves of noise is worth more than what it still has of error.
        clip: how far pi / pi_old may leave 1 and still have a gradient; networks alone.
        explore: the share of copies of the world that take all actions evenly; on tables that observe time.
        search: the share of the other copies that go to what was tried least; the rest act by the policy.

    Of the answer's `details`, "critic" holds the learned "values" [T, S], "history" an `xarray.Dataset` along `step`,
    "steps" the transitions used and "form" "KL" or "entropy". `elbo` and `values` are exact ones of the learned policy.
    """

    batch_size: int = 128
    buffer_size: int = 1024
    warmup_steps: int = 0
    updates_per_step: float = 0.08
    gae_lambda: float | None = None
    clip: float = 0.2
    explore: float = 0.25
    search: float = 0.5

    name: ClassVar[str] = "policy-gradient"
    accepts: ClassVar[str] = "a TrajectoryModel, a Gymnasium environment, or a continuous model with a box of actions"
    cost: ClassVar[str] = "N (A + K) time a step of N copies; T S A memory"
    for_tables: ClassVar[tuple[str, ...]] = ("explore", "search")
    for_networks: ClassVar[tuple[str, ...]] = (*NetworkBackend.for_networks, "clip")
    stationary: ClassVar[bool] = True
    acts_in_boxes: ClassVar[bool] = True
    learns_from_paths: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gae_lambda is not None:
            check_share(self.gae_lambda, "gae_lambda")
        check_share(self.explore, "explore")
        check_share(self.search, "search")
        if isinstance(self.clip, bool) or not isinstance(self.clip, (int, float)) or not self.clip > 0:
            raise ValueError(f"clip is {self.clip!r}; expected a number > 0")
        if self.warmup_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, and backend {self.name!r} learns from steps of its own policy "
                "alone; leave it out"
            )
        if self.smoothing != NetworkBackend.smoothing:
            raise ValueError(f"backend {self.name!r} has no slow copy of a network; leave smoothing out")

    def supports(self, model: Any) -> None:
        """Raises ValueError if the world cannot be learned, and says what can."""
        super().supports(model)
        if isinstance(model, TrajectoryModel):
            return
        copies = copies_of(self._copies(model), self.steps, 1)
        if copies > self.buffer_size:
            raise ValueError(
                f"buffer_size is {self.buffer_size}, and one step of num_envs={copies} copies takes more; raise "
                "buffer_size, or lower num_envs"
            )
        if self.steps < self.buffer_rows(copies):
            raise ValueError(
                f"steps is {self.steps}, and backend {self.name!r} learns after every buffer_size="
                f"{self.buffer_size} of them; raise steps, or lower buffer_size"
            )

    def buffer_rows(self, copies: int) -> int:
        """The most transitions of so many copies of the world that are kept: whole steps of all copies."""
        return self.buffer_size // copies * copies

    def rule(self, world: TableWorld) -> PolicyGradientRule:
        """The update of its tables, on a `TrajectoryModel`."""
        lam = TABLE_LAMBDA if self.gae_lambda is None else self.gae_lambda
        return PolicyGradientRule(lam, self.explore, self.search, self.observe_time or not world.finite)

    def make_brain(self, setting: Setting, generator: torch.Generator) -> PolicyGradientNetworks:
        """Makes the networks that it learns with in worlds without tables."""
        lam = NETWORK_LAMBDA if self.gae_lambda is None else self.gae_lambda
        return PolicyGradientNetworks(setting, generator, lam, self.clip)
