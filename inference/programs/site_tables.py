"""A distribution over the discrete sites of a program as one table a site, which needs neither the program nor Pyro."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from cai.inference.core.storage import storable
from cai.inference.programs.enumerated import EnumeratedProgram, Term, eliminate
from cai.models.common.numerics import safe_logsumexp
from cai.models.common.random_draws import seeded
from cai.models.programs.inspect import site_time
from cai.models.trajectory.simulate import draw_rows

__all__ = ["SiteTables"]

CHUNK = 4096  # trajectories that are scored at once
_ROWS = "\0"  # the dimension of trajectories in `log_prob`


@storable("site-tables")
@dataclass(frozen=True, eq=False)
class SiteTables:
    """q(x_1, x_2, ...) = prod_i q(x_i | context_i) in the order of the draws; values are counted from 0.

    Attributes:
        contexts: for every latent site in the order of the draws, the sites that its table is indexed by.
        logs: by site, the logs of q's conditional probabilities [*context, N], nats.
    """

    contexts: dict[str, tuple[str, ...]]
    logs: dict[str, Tensor]

    _stored_axes = {"logs": "..."}

    def _check_held(self) -> None:
        sizes: dict[str, int] = {}
        for name, context in self.contexts.items():
            table = self.logs.get(name)
            known = table is not None and list(table.shape[:-1]) == [sizes.get(site) for site in context]
            if table is None or not known or len(self.logs) != len(self.contexts):
                raise ValueError(f"logs.{name} is no table of {[*context, name]}, in the order of the draws")
            sizes[name] = len(table.movedim(-1, 0))

    @property
    def tables(self) -> dict[str, Tensor]:
        """By site, q's conditional probabilities [*context, N]."""
        return {name: table.exp() for name, table in self.logs.items()}

    @classmethod
    def of(cls, run: EnumeratedProgram) -> SiteTables:
        """The conditionals of an enumerated run under q."""
        found = run.conditionals()
        return cls({name: found[name][0] for name in found}, {name: found[name][1] for name in found})

    def sample(self, num_samples: int, seed: int) -> tuple[Tensor, Tensor]:
        """Draws trajectories.

        Args:
            num_samples: N.
            seed: of the generator; the global random state is left alone.

        Returns:
            States int64 [N, T + 1] ([N, T] where the program draws no s_{T+1}), and actions int64 [N, T].
        """
        return self.sample_latents(num_samples, seed)[:2]

    def sample_latents(self, num_samples: int, seed: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """States, actions, and the further latents of the same trajectories, int64 [N] by site."""
        generator = seeded(seed)
        values: dict[str, Tensor] = {}
        for name, context in self.contexts.items():
            rows = self.logs[name][tuple(values[site] for site in context)] if context else self.logs[name]
            values[name] = draw_rows(rows.exp().expand(num_samples, -1), generator)
        states, actions = (torch.stack([values[name] for name in self._timed(kind)], -1) for kind in "sa")
        return states, actions, {name: value for name, value in values.items() if site_time(name) is None}

    def log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        """[N], log q of trajectories as `sample` returns them, in nats; further latents are summed out."""
        parts = zip(states.split(CHUNK), actions.split(CHUNK), strict=True)
        return torch.cat([self._log_prob(*part) for part in parts])

    def _log_prob(self, states: Tensor, actions: Tensor) -> Tensor:
        known = dict(zip(self._timed("s"), states.T, strict=True)) | dict(zip(self._timed("a"), actions.T, strict=True))
        symbols = {name: chr(i + 1) for i, name in enumerate(self.contexts) if name not in known}
        terms = []
        for name, context in self.contexts.items():
            sites = (*context, name)
            given = [i for i, site in enumerate(sites) if site in known]
            left = [i for i, site in enumerate(sites) if site not in known]
            table = self.logs[name].permute(*given, *left)
            rows = (
                table[tuple(known[sites[i]] for i in given)] if given else table[None].expand(len(states), *table.shape)
            )
            terms.append(Term(rows, _ROWS + "".join(symbols[sites[i]] for i in left)))
        total = eliminate(symbols, terms, lambda name, total, dims, axis: safe_logsumexp(total, axis))
        return total.tensor

    def marginal(self, site: str, size: int | None = None) -> Tensor:
        """[N], the probabilities of a site's values."""
        return self.marginals[site]

    @cached_property
    def marginals(self) -> dict[str, Tensor]:
        """The marginal of every latent site, [N] each."""
        symbols = {name: chr(i + 1) for i, name in enumerate(self.contexts)}
        own = {
            name: Term(self.logs[name], "".join(symbols[site] for site in (*context, name)))
            for name, context in self.contexts.items()
        }
        found = EnumeratedProgram(symbols, own, {}, {}).joints((name,) for name in symbols)
        return {name: table.clamp(min=0) for name, table in zip(symbols, found, strict=True)}

    def _timed(self, kind: str) -> list[str]:
        """The states ("s") or actions ("a") in the order of time."""
        timed = [(site[1], name) for name in self.contexts if (site := site_time(name)) and site[0] == kind]
        return [name for _, name in sorted(timed)]
