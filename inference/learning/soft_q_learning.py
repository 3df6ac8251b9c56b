"""Backend "soft-q-learning": the soft Bellman backup, learned from samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from cai.inference.learning.network_backend import NetworkBackend
from cai.inference.learning.networks.updates.brain import Setting
from cai.inference.learning.networks.updates.discrete_actor_critic import DiscreteSoftQ
from cai.inference.learning.options import check_share
from cai.inference.learning.tables.soft_q import SoftQRule
from cai.inference.learning.tables.world import TableWorld

__all__ = ["SoftQLearning"]


@dataclass(frozen=True, kw_only=True)
class SoftQLearning(NetworkBackend):
    """Learns Q(s, a) = E[r + gamma V(s')], V(s) = alpha log sum_a p(a|s) exp(Q(s, a) / alpha), from transitions.

    Levine 2018, section 5.2 (equation 20, whose denominator should read sum over a of exp Q: a log too many is printed
    there); Haarnoja 2017, section 3.2; Schulman 2017, section 3. Its policy is p exp((Q - V) / alpha), so it reaches
    the bound of backend "variational".

    On a `TrajectoryModel` Q is a table [T, S, A]. The n-th sample of an entry moves it by n^-0.7, and the policy is
    that of a mean of each entry over its visits, in which late ones count more; an entry whose samples all led to one
    state with one reward takes the last as it is, so that deterministic worlds are learned to many digits, and over an
    infinite horizon all such entries are backed up again, a few times, whenever steps are learned from. Over a
    finite horizon, where no reward depends on time, a step is looked at as if it had been met at the other times, too,
    the last ones first: one step then backs up the whole horizon.

    Steps of n^-0.7 are slow where rewards are noisy against alpha, episodes long and gamma near 1: on slippery
    CliffWalking (falls of -100, alpha 1, gamma 0.99) the bound was 10 to 14 nats below the best after 100,000
    transitions, 2.4 to 4.5 after 400,000 and about 1 after 1,600,000. The note of the answer says where it still rises.

    In other worlds with numbered actions Q is a network, the smaller of two, learned from a buffer; the policy acts.

    Args:
        explore: the share of copies of the world that take all actions evenly; on tables.
        search: the share of the other copies that go to what was tried least, by a count of tries that is carried back
            along what was met; on tables. The rest act by the policy.

    Of the answer's `details`, "critic" holds the learned "q_values" [T, S, A], "history" an `xarray.Dataset` along
    `step`, "steps" the transitions that were used and "form" whether values are relative to the prior ("KL") or hold
    the entropy ("entropy"). `elbo` and `values` are exact ones of the learned policy.
    """

    explore: float = 0.5
    search: float = 0.5

    name: ClassVar[str] = "soft-q-learning"
    accepts: ClassVar[str] = "a TrajectoryModel, or a world with numbered actions"
    cost: ClassVar[str] = "N (A + K) time a step of N copies; T S A memory"
    for_tables: ClassVar[tuple[str, ...]] = ("explore", "search")
    acts_by_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.explore, "explore")
        check_share(self.search, "search")

    def rule(self, world: TableWorld) -> SoftQRule:
        """The update of its tables, on a `TrajectoryModel`."""
        return SoftQRule(self.explore, self.search)

    def make_brain(self, setting: Setting, generator: torch.Generator) -> DiscreteSoftQ:
        """Makes the networks that it learns with in worlds without tables."""
        return DiscreteSoftQ(setting, generator)
