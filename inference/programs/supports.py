"""Which values of q's sites can avoid factors of -inf: a yes-or-no question, answered before anything is fitted."""

from __future__ import annotations

import functools
import operator

import torch
from torch import Tensor

from cai.inference.programs.enumerated import EnumeratedProgram, Term, eliminate

__all__ = ["find_supports"]


def find_supports(run: EnumeratedProgram, contexts: dict[str, tuple[str, ...]]) -> tuple[dict[str, Tensor], bool]:
    """Which values keep q safe of factors of -inf, by eliminating yes-or-no messages.

    A redistributed site may choose: it keeps the values from which -inf can be avoided for sure. Every other site is
    chance: all its possible values must be safe. What a site's table does not see counts as chance too, as far as it
    can occur under the program's own support; this may rule out more than the best q would.

    Args:
        run: the enumerated program under q.
        contexts: the sites that each redistributed site's table is indexed by.

    Returns:
        Bool tables [*context, N] for the redistributed sites (where no value is safe, all are kept), and whether
        -inf is avoided from the start on.
    """
    terms = [Term(~torch.isinf(term.tensor), term.dims) for term in run.factors.values()]
    terms += [Term(~torch.isinf(term.tensor), term.dims) for term in run.divergence_terms()]
    if all(bool(term.tensor.all()) for term in terms):
        return {}, True
    supports: dict[str, Tensor] = {}

    def reduce(name: str, safe: Tensor, dims: str, axis: int) -> Tensor:
        possible = torch.isfinite(run.log_q[name].aligned(dims))
        if name not in contexts:
            return (safe | ~possible).all(axis)
        order = "".join(run.symbols[site] for site in (*contexts[name], name))
        unseen = [i for i, dim in enumerate(dims) if dim not in order]
        seen = safe
        if unseen:  # what the table does not see must be safe whatever it is, as far as it can be
            others = dims.replace(run.symbols[name], "")
            reachable = Term(run.reach(others), others).aligned(dims)
            seen = (safe | ~reachable).all(unseen, keepdim=True)
        allowed = seen & possible
        kept = torch.where(allowed.any(axis, keepdim=True), allowed, possible)
        sizes = [run.sizes[site] for site in (*contexts[name], name)]
        table = kept.any(unseen) if unseen else kept
        left = "".join(dim for dim in dims if dim in order)
        supports[name] = Term(table, left).aligned(order).expand(sizes)
        return allowed.any(axis)

    safe = eliminate(run.symbols, terms, reduce, _all, own=run.log_q)
    return supports, bool(safe.tensor)


def _all(parts: list[Tensor]) -> Tensor:
    return functools.reduce(operator.and_, parts)
