"""Backend "path-consistency": values and policy that agree along every path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from cai.inference.learning.network_backend import NetworkBackend
from cai.inference.learning.networks.updates.brain import Setting
from cai.inference.learning.networks.updates.path_consistency import PathConsistencyNetworks
from cai.inference.learning.options import check_count, check_share
from cai.inference.learning.tables.path_consistency import PathConsistencyRule
from cai.inference.learning.tables.world import TableWorld
from cai.models.continuous.world import World
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["PathConsistency"]

TRIED = 4  # states in which dynamics are tried twice


@dataclass(frozen=True, kw_only=True)
class PathConsistency(NetworkBackend):
    """Learns V and pi such that -V(s_0) + gamma^n V(s_n) + sum_i gamma^i (r - alpha log pi/p) = 0 on every path.

    Nachum 2017, "Bridging the gap between value and policy based reinforcement learning", section 4, relative to the
    action prior. In a deterministic world it holds for any path, of any length and by any behaviour, exactly at the
    optimum. In a stochastic world only its mean given the path's start and actions is 0, and the least squared residual
    is not the optimum, so such a `TrajectoryModel` is refused. (A discount is no chance in this sense.) So is a
    continuous model with random dynamics. Whether an environment is deterministic cannot be known: where it is not,
    this learner ends with success and another policy than the best one.

    On a `TrajectoryModel` V and pi are those of one table Q, V = alpha log sum_a p exp(Q / alpha) and alpha log pi/p =
    Q - V (the unified form of the same paper), and the steps of a path are made consistent one by one, the last first;
    over an infinite horizon so are, a few times each, all steps that were ever met.
    Elsewhere they are networks, which learn from paths of a buffer of all that was met lately; a slow copy of V stands
    at the end of a path (Nachum 2018, "Trust-PCL"). Where networks cannot show the best policy, as those of
    tanh-Gaussians in a box, no policy makes all residuals 0, and which is best depends on the paths: those of old
    policies pull it away, so the buffer is short.

    Args:
        path_length: the most steps of a path.
        explore: the share of copies of the world that take all actions evenly; on tables.
        search: the share of the other copies that go to what was tried least, by a count of tries that is carried back
            along what was met; on tables. The rest act by the policy.

    Of the answer's `details`, "critic" holds the learned "values" [T, S], "history" an `xarray.Dataset` along `step`,
    "steps" the transitions used and "form" "KL" or "entropy". `elbo` and `values` are exact ones of the learned policy.
    """

    buffer_size: int = 2000
    updates_per_step: float = 0.5
    path_length: int = 10
    explore: float = 0.5
    search: float = 0.5

    name: ClassVar[str] = "path-consistency"
    accepts: ClassVar[str] = "a TrajectoryModel with deterministic transitions, or a deterministic world"
    cost: ClassVar[str] = "N (A + K) time a step of N copies; T S A memory"
    for_tables: ClassVar[tuple[str, ...]] = ("explore", "search")
    acts_in_boxes: ClassVar[bool] = True
    learns_from_paths: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.path_length, "path_length")
        check_share(self.explore, "explore")
        check_share(self.search, "search")

    def supports(self, model: Any) -> None:
        """Raises ValueError if the model cannot be learned, and says what can."""
        super().supports(model)
        if isinstance(model, TrajectoryModel):
            check_deterministic(model, self.name)
        elif isinstance(model, World) and not _repeats(model):
            raise ValueError(
                f"backend {self.name!r} needs deterministic dynamics, and those of {model.name} draw: there the least "
                "square of its residuals is another policy; ask 'soft-actor-critic'"
            )

    def rule(self, world: TableWorld) -> PathConsistencyRule:
        """The update of its tables, on a `TrajectoryModel`."""
        return PathConsistencyRule(self.path_length, self.explore, self.search)

    def make_brain(self, setting: Setting, generator: torch.Generator) -> PathConsistencyNetworks:
        """Makes the networks that it learns with in worlds without tables."""
        return PathConsistencyNetworks(setting, generator, self.path_length)


def _repeats(world: World) -> bool:
    """Whether a continuous model does the same again from the same states, as far as a few show."""
    draws = torch.Generator().manual_seed(0)
    states = world.reset(TRIED, draws)
    actions = torch.zeros(TRIED, world.action_dim).to(states)
    moved = [world.step(states, actions, 0, torch.Generator().manual_seed(seed)).next_states for seed in (1, 2)]
    return torch.equal(*moved)


def check_deterministic(model: TrajectoryModel, name: str) -> None:
    """Refuses a model in which an action can have several outcomes that differ."""
    mdp = model.mdp
    chances = mdp.probabilities.detach()
    taken = (model.action_prior.detach() > 0) & model.nonterminal[:, None]
    possible = (chances > 0) & taken[..., None]
    likely = chances.argmax(-1, keepdim=True)
    following = mdp.successors().expand_as(chances)
    differs = possible & (following != following.gather(-1, likely))
    for t in model.reward_times:
        paid = model.reward_table(t).detach().expand(chances.shape)
        differs = differs | (possible & (paid != paid.gather(-1, likely)))
    if bool(differs.any()):
        state, action, _ = torch.nonzero(differs)[0].tolist()
        raise ValueError(
            f"backend {name!r} needs deterministic transitions, and action {mdp.action_name(action)} in state "
            f"{mdp.state_name(state)} has several outcomes: there the residual of a path has mean 0 at the optimum but "
            "is not 0, and its least square is another policy; ask 'soft-q-learning' or 'soft-actor-critic'"
        )
