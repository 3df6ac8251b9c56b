"""The two soft recursions where returns are tiny beside the temperature, right to the rounding of values.

Values of 1e-10 nats are lost where numbers of size 1 are added up and their logarithm is taken, as log sum_a p e^q with
q near 0. Here every sum is a certainty equivalent, which is taken from differences: see
`cai.models.common.numerics.certainty_equivalent`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cai.inference.kernels.backups import continuation, soft_q_values
from cai.inference.kernels.plain import SoftPass
from cai.models.common.numerics import certainty_equivalent

__all__ = ["SmallPass"]


class SmallPass(SoftPass):
    """Passes over the horizon of problems some of whose returns are tiny, outcome by outcome."""

    def _step(self, following: Tensor, t: int) -> Tensor:
        prior = self.problem.inputs_at(t)[1].exp()
        columns = [
            certainty_equivalent(prior if prior.dim() == 2 else prior[number], q_values, 1.0)
            for number, q_values in enumerate(self._q_values(following, t).unbind(-1))
        ]
        return torch.stack(columns, -1).masked_fill_(self.model.mdp.terminal[:, None], 0.0)

    def _q_values(self, following: Tensor, t: int) -> Tensor:
        chances, _, rewards = self.problem.inputs_at(t)
        found = []
        for number, values in enumerate(following.unbind(-1)):
            paid = rewards if rewards.dim() == 3 else rewards[number]
            if self.problem.kind == "fixed":
                found.append(soft_q_values(self.model, "fixed", chances, paid, values))
                continue
            scores = paid + self.model.mdp.gather(continuation(self.model, values))
            found.append(certainty_equivalent(chances, scores, 1.0))
        return torch.stack(found, -1).masked_fill_(self.model.mdp.terminal[:, None, None], 0.0)
