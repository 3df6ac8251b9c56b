"""The policy that networks have learned: acts on batches of observations, and is saved without code."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cai.inference.core.policy import policy_classes
from cai.inference.core.status import NotKnown
from cai.inference.core.storage import save, storable
from cai.inference.learning.networks.experience.interface import Interface, OutOfFloats, draw_numbered
from cai.inference.learning.networks.layers.box_networks import BoxNetwork, box_network, layers_of, numbered_network
from cai.inference.learning.networks.layers.flow import FlowNetwork, Frozen
from cai.models.common.checks import as_count

__all__ = ["COMPOSED", "LearnedPolicy", "uniform_actions"]

COMPOSED = "composed"  # the kind of what acts by the mean of several Q-functions
SPREAD = 256  # uniform actions that stand for the box where actions are drawn by their worth


@storable("learned-policy")
@dataclass(frozen=True, eq=False)
class LearnedPolicy:
    """pi(a | o) by a network.

    Args:
        interface: how the network sees the world.
        sizes: of the observation, the hidden layers and what the policy needs.
        parameters: by name: "actor", [P], and where no one action stands for the policy also "critic", [P] of twin
            critics; or "critic" alone, whose smaller Q over the temperature are the logits.
        temperature: alpha, where the logits are values.
        log_prior: the action prior of discrete actions where it is not uniform; a function, which is never saved.
        source: the backend that it came from.
        kind: what acts in a box: "gaussian", "flow", "stein", or "module"; "composed" where there are `parts`.
        beneath: the policy whose flow is beneath this one's; None for none.
        network: the module that turns observations into features first; None for none. It is never saved.
        module: the module that acts; None for none. It is never saved.
        parts: whose critics are averaged, Q = sum_i w_i Q_i; the policy is then p exp((Q - V) / alpha).
        shares: w_i.
    """

    interface: Interface
    sizes: tuple[int, ...]
    parameters: dict[str, Tensor]
    temperature: float = 1.0
    log_prior: Any = None
    source: str = ""
    kind: str = "gaussian"
    beneath: LearnedPolicy | None = None
    network: Any = None
    module: Any = None
    parts: tuple[LearnedPolicy, ...] = ()
    shares: tuple[float, ...] = ()

    @property
    def horizon(self) -> float:
        """T of a model whose time it sees, math.inf else."""
        return self.interface.horizon

    def act(
        self,
        observations: Any,
        t: int = 0,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        action_mask: Any = None,
        num_candidates: int | None = None,
    ) -> Tensor:
        """Actions in the world's units for observations [N, ...], or for one.

        Args:
            observations: as the world gives them; of a continuous model its states.
            t: the time index, of a continuous model over a finite horizon.
            generator: draws the actions; the global one unless given.
            deterministic: the image of the mean, or the most probable action, in place of a draw.
            action_mask: [N, A], not 0 where an action is available, as `info["action_mask"]` of a world tells it; all
                are unless given. For discrete actions alone.
            num_candidates: with `deterministic`, take the best by Q of so many draws; where no one action stands for
                the policy, as for flows and Stein samplers, which may have several modes.

        Returns:
            float64 [N, ...] in the box of actions, or int64 [N]; without the first axis for one observation.

        Raises:
            ValueError: if no one action stands for the policy and there are no candidates, or no Q to choose by.
            OutOfFloats: if the networks make NaN of an observation.
        """
        rows, single = self._rows(observations, t)
        candidates = self._candidates(deterministic, num_candidates)
        with torch.no_grad():
            if self.interface.num_actions:
                logits = self._logits(rows, action_mask)
                if bool(logits.isnan().any()):
                    raise OutOfFloats
                chosen = logits.argmax(-1) if deterministic else draw_numbered(torch.softmax(logits, -1), generator)
            elif self.parts:
                chosen = self._drawn_by_worth(rows, generator, num_candidates if deterministic else None)
            else:
                seen = rows.repeat_interleave(candidates, 0)
                noise = torch.randn(len(seen), len(self.interface.low), generator=generator, dtype=torch.float32)
                noise = torch.zeros_like(noise) if deterministic and num_candidates is None else noise
                chosen = torch.tanh(self._acting().draw(self.parameters["actor"], seen, noise)[0])
                if candidates > 1:
                    best = self._worth(seen, chosen).reshape(-1, candidates).argmax(1)
                    chosen = chosen.reshape(-1, candidates, chosen.shape[-1])[torch.arange(len(rows)), best]
        actions = self.interface.to_world(chosen)
        return actions[0] if single else actions

    def log_prob(self, actions: Any, observations: Any, t: int = 0, *, action_mask: Any = None) -> Tensor:
        """Log pi(a | o) in nats [N], or of one; in a box a density in the world's units, -inf at its bounds.

        Args:
            actions: [N, ...] in the world's units.
            observations: [N, ...].
            t: the time index, of a continuous model over a finite horizon.
            action_mask: as for `act`.

        Raises:
            ValueError: if there is not one action for each observation, or no such action exists.
        """
        rows, single = self._rows(observations, t)
        given = self.interface.given_actions(np.asarray(actions)[None] if single else actions, len(rows))
        with torch.no_grad():
            if self.interface.num_actions:
                logs = torch.log_softmax(self._logits(rows, action_mask), -1)
                scores = logs.gather(1, given[:, None])[:, 0]
            else:
                scores = self._log_density(rows, given)
        return scores[0] if single else scores

    def _log_density(self, rows: Tensor, given: Tensor) -> Tensor:
        if self.parts:
            raise NotKnown("densities of actions", "a composition", "draw from it, or ask one of its parts")
        low, high = self.interface.low, self.interface.high
        inside = ((given > low) & (given < high)).all(-1)
        safe = torch.where(inside[:, None], given, (low + high) / 2)
        u = ((safe - low).log() - (high - safe).log()) / 2
        found = self._acting().log_density(self.parameters["actor"].double(), rows.double(), u)
        return torch.where(inside, found - ((high - low) / 2).log().sum(), -torch.inf)

    def _acting(self) -> BoxNetwork:
        """What acts in a box."""
        beneath = None if self.beneath is None else self.beneath.frozen()
        acts = self.kind if self.module is None else self.module
        return box_network(acts, self.interface, self.sizes[1:-1], self.network, beneath)

    def frozen(self) -> Frozen:
        """Its flow, to stand beneath another one.

        Raises:
            ValueError: if it is none.
        """
        network = None if self.interface.num_actions or self.parts else self._acting()
        if not isinstance(network, FlowNetwork):
            raise ValueError(
                f"the policy below is {self.kind!r}, and a level above acts in the latent numbers of a flow; give the "
                "policy of a run with policy='flow'"
            )
        return Frozen(network, self.parameters["actor"])

    def _candidates(self, deterministic: bool, given: int | None) -> int:
        """Of how many draws the best is taken."""
        many = self.kind in ("flow", "stein", COMPOSED) and not self.interface.num_actions
        if given is None:
            if deterministic and many:
                raise ValueError(
                    f"deterministic is True, and a {self.kind} policy may have several modes, of which no one action "
                    "is the mean; give num_candidates=, e.g. 32, of whose draws the best by Q is taken, or draw"
                )
            return 1
        if not (deterministic and many):
            raise ValueError(
                "num_candidates is for deterministic=True of a flow, a Stein policy or a composition; others have a "
                "mean or a most probable action, so leave it out"
            )
        if "critic" not in self.parameters and not self.parts:
            raise ValueError(
                f"num_candidates chooses by Q, and backend {self.source!r} learned values of observations alone; draw, "
                "or learn by 'soft-actor-critic'"
            )
        return as_count(given, "num_candidates")

    def _worth(self, rows: Tensor, actions: Tensor) -> Tensor:
        """[N], Q of actions [N, d] in [-1, 1], as the critic of its answer says it."""
        if self.parts:
            return self._mean([part._worth(rows, actions) for part in self.parts])
        critic = layers_of(self.interface, self.sizes[1:-1], self.network, copies=2)(actions.shape[1], 1)
        worth: Tensor = critic(self.parameters["critic"], torch.cat([rows, actions], 1))[..., 0]
        return worth.mean(0) if self.kind == "stein" else torch.minimum(worth[0], worth[1])

    def numbered_worth(self, rows: Tensor) -> Tensor:
        """[N, A], Q of numbered actions for rows [N, n], as the critic of its answer says it."""
        if self.parts:
            return self._mean([part.numbered_worth(rows) for part in self.parts])
        critic = layers_of(self.interface, self.sizes[1:-1], self.network, copies=2)(0, self.interface.num_actions)
        worth = critic(self.parameters["critic"], rows)
        return torch.minimum(worth[0], worth[1])

    def _mean(self, worth: list[Tensor]) -> Tensor:
        return torch.stack([share * part for share, part in zip(self.shares, worth, strict=True)]).sum(0)

    def scores(self, rows: Tensor, actions: Tensor) -> Tensor:
        """[N], Q / alpha + log p of actions [N, d] in [-1, 1], p over the uniform density; of a composition."""
        found = self._worth(rows, actions) / self.temperature
        return found if self.log_prior is None else found + self.log_prior(rows, actions)

    def _drawn_by_worth(self, rows: Tensor, generator: torch.Generator | None, best_of: int | None) -> Tensor:
        """[N, d], actions in [-1, 1]: of many uniform ones each is drawn by p exp(Q / alpha), or the best is taken."""
        seen, actions = uniform_actions(rows, len(self.interface.low), generator, best_of or SPREAD)
        worth = self._worth(seen, actions) if best_of else self.scores(seen, actions)
        table = worth.reshape(len(rows), -1)
        if bool(table.isnan().any()):
            raise OutOfFloats
        chosen = table.argmax(1) if best_of else draw_numbered(torch.softmax(table, 1), generator)
        return actions.reshape(len(rows), -1, actions.shape[1])[torch.arange(len(rows)), chosen]

    def _logits(self, rows: Tensor, action_mask: Any) -> Tensor:
        """[N, A], up to a constant; -inf where an action is not available."""
        if "actor" in self.parameters:
            acting = numbered_network(self.module, self.interface, self.sizes[1:-1], self.network)
            scores = acting(self.parameters["actor"], rows)
        else:
            scores = self.numbered_worth(rows) / self.temperature
        scores = scores if self.log_prior is None else scores + self.log_prior(rows, rows)
        if action_mask is None:
            return scores
        available = torch.as_tensor(np.asarray(action_mask)).reshape(scores.shape) != 0
        if not bool(available.any(-1).all()):
            row = int((~available.any(-1)).nonzero()[0])
            raise ValueError(f"action_mask leaves observation {row} no action; an episode that is over asks for none")
        return scores.masked_fill(~available, -math.inf)

    def _rows(self, observations: Any, t: int) -> tuple[Tensor, bool]:
        """float32 [N, n], and whether there was one observation."""
        seen = np.asarray(observations)
        width = len(self.interface.categories) or (self.interface.size - (self.horizon != math.inf))
        if seen.ndim < 2:
            single = seen.size == width and (seen.ndim == 0 or width > 1 or not self.interface.categories)
        else:  # a matrix; one row of that width is a batch of one
            single = seen.size == width and len(seen) > 1
        seen = seen[None] if single else seen
        if seen.reshape(len(seen), -1).shape[1] != width:
            raise ValueError(
                f"observations have shape {list(np.shape(observations))}; this policy sees {width} numbers each: [N, "
                f"{width}], or one of them"
            )
        if self.horizon != math.inf:
            clock = np.full((len(seen), 1), t / self.horizon)
            seen = np.concatenate([seen.reshape(len(seen), -1), clock], 1)
        return self.interface.rows(seen), single

    def save(self, path: str | Path) -> Path:
        """Writes it to a file that `cai.load` reads; returns the path.

        Raises:
            StorageError: if its action prior is a function, or a module of yours acts, which no file can hold.
        """
        return save(path, self)

    def __repr__(self) -> str:
        acts = (
            f"{self.interface.num_actions} actions"
            if self.interface.num_actions
            else f"a box of {len(self.interface.low)}"
        )
        how = "" if self.interface.num_actions else f", {self.kind}"
        return f"{type(self).__name__}({acts}{how}, layers={list(self.sizes)}, source={self.source!r})"


def uniform_actions(
    rows: Tensor, dim: int, generator: torch.Generator | None, number: int = SPREAD
) -> tuple[Tensor, Tensor]:
    """Rows [N, n] repeated [N K, n], and a uniform action [N K, d] in [-1, 1] for each."""
    seen = rows.repeat_interleave(number, 0)
    return seen, 2 * torch.rand(len(seen), dim, generator=generator, dtype=torch.float32) - 1


policy_classes["learned"] = LearnedPolicy
