"""Elimination of discrete variables: terms with named dimensions, carried backward through the order of the draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

__all__ = ["Term", "add_terms", "eliminate", "union"]


@dataclass(frozen=True, eq=False)
class Term:
    """A tensor with named dimensions: `dims[i]` is the symbol of axis i, one symbol for each latent site."""

    tensor: Tensor
    dims: str

    def aligned(self, dims: str) -> Tensor:
        """The tensor with axes in the order of `dims`, of size 1 where it does not depend on one."""
        present = [self.dims.index(dim) for dim in dims if dim in self.dims]
        shape, sizes = [], iter([self.tensor.shape[i] for i in present])
        for dim in dims:
            shape.append(next(sizes) if dim in self.dims else 1)
        return self.tensor.permute(present).reshape(shape)


def union(terms: Iterable[Term]) -> str:
    """The dimensions of several terms, sorted."""
    return "".join(sorted(set().union(*(term.dims for term in terms))))


def add_terms(parts: list[Tensor]) -> Tensor:
    """The sum of tensors that broadcast."""
    return reduce(add, parts)


def eliminate(
    symbols: Mapping[str, str],
    terms: Iterable[Term],
    reduce: Callable[[str, Tensor, str, int], Tensor],
    combine: Callable[[list[Tensor]], Tensor] = add_terms,
    own: Mapping[str, Term] | None = None,
) -> Term:
    """Eliminates variables, the last drawn first.

    Args:
        symbols: the dimension of each variable, in the order of the draws.
        terms: what is carried backward.
        reduce: (variable, combined terms, their dims, axis) -> the combined terms without that axis.
        combine: makes one tensor of several that broadcast.
        own: a variable's own table, on whose dimensions the combined terms come to depend.

    Returns:
        What is left, over the dimensions that no variable has; a variable that no term depends on is passed over.
    """
    waiting = list(terms)
    for name in reversed(list(symbols)):
        symbol = symbols[name]
        involved = [term for term in waiting if symbol in term.dims]
        if not involved:
            continue
        waiting = [term for term in waiting if symbol not in term.dims]
        dims = union([*involved, *([own[name]] if own is not None else [])])
        total = combine([term.aligned(dims) for term in involved])
        axis = dims.index(symbol)
        waiting.append(Term(reduce(name, total, dims, axis), dims.replace(symbol, "")))
    if not waiting:
        return Term(torch.zeros((), dtype=torch.float64), "")
    dims = union(waiting)
    return Term(combine([term.aligned(dims) for term in waiting]), dims)
