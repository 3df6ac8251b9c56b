"""Programs whose latents Pyro has enumerated: the exact posterior, and the bound of a q, by sums over tables.

Pyro enumerates q's program on the model side, which keeps every variable's dimension apart also where the program
reads r(s_t, a_t, s_{t+1}) or draws s_{t+1} at the end of iteration t (enumerating a guide under `pyro.markov` is wrong
there). With all factors scaled by lambda, log Z has the derivative E_q[...] at lambda = 0. Since every conditional of
q is normalised, that derivative is a backward recursion, which needs no logarithm of a message:

    R(context) = sum_x q(x | context) (f(x, context) + R(x, context)),       the last drawn site first.

It is linear in the terms f = log factor + log p - log q, so values of 1e4 cost no digit, and gradients are plain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import torch
from torch import Tensor

from cai.models.common.numerics import safe_logsumexp

__all__ = ["EnumeratedProgram", "Term", "add_terms", "eliminate", "union"]


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


@dataclass(frozen=True, eq=False)
class EnumeratedProgram:
    """One enumerated run of q's program.

    Attributes:
        symbols: the dimension of every latent site, in the order of the draws.
        log_q: their log probabilities under q.
        log_p: under the program itself, for the sites that q has redistributed.
        factors: log factors by site.
    """

    symbols: dict[str, str]
    log_q: dict[str, Term]
    log_p: dict[str, Term]
    factors: dict[str, Term]

    def detach(self) -> EnumeratedProgram:
        """The same tables without their autograd history."""

        def cut(terms: dict[str, Term]) -> dict[str, Term]:
            return {name: Term(term.tensor.detach(), term.dims) for name, term in terms.items()}

        return EnumeratedProgram(self.symbols, cut(self.log_q), cut(self.log_p), cut(self.factors))

    @property
    def prior(self) -> EnumeratedProgram:
        """The run of the program itself: every site as it was before it was redistributed."""
        return EnumeratedProgram(self.symbols, self.log_q | self.log_p, {}, self.factors)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """The number of values of each latent site."""
        shapes = {name: dict(zip(term.dims, term.tensor.shape, strict=True)) for name, term in self.log_q.items()}
        return {name: shapes[name].get(symbol, 1) for name, symbol in self.symbols.items()}

    @property
    def learns(self) -> bool:
        """Whether the program has parameters of its own that require grad."""
        return any(term.tensor.requires_grad for terms in (self.log_q, self.factors) for term in terms.values())

    def conditioned(self) -> tuple[Tensor, EnumeratedProgram]:
        """The exact posterior of a program that nothing was redistributed in: sums over latents, the last drawn first.

        Returns:
            log p(O) in nats, 0-dim, -inf where it is 0; and the run under q(x | context) = p(x | context, O), every
            site redistributed. Contexts that optimality rules out keep the program's own conditionals, and
            all do where p(O) = 0.
        """
        posterior = dict(self.log_q)

        def reduce(name: str, total: Tensor, dims: str, axis: int) -> Tensor:
            weights = self.log_q[name].aligned(dims) + total
            message = safe_logsumexp(weights, axis)
            known = torch.isfinite(message).unsqueeze(axis)
            rows = torch.where(known, weights - torch.where(known, message.unsqueeze(axis), 0.0), -torch.inf)
            own = self.log_q[name].aligned(dims).expand(rows.shape)
            posterior[name] = Term(torch.where(known, rows, own).detach(), dims)
            return message

        evidence = eliminate(self.symbols, self.factors.values(), reduce, own=self.log_q).tensor
        cut = self.detach()
        if not bool(torch.isfinite(evidence)):  # optimality rules out everything, also what is drawn along the way
            posterior = cut.log_q
        return evidence, EnumeratedProgram(self.symbols, posterior, cut.log_q, cut.factors)

    def divergence_terms(self, sites: Iterable[str] | None = None) -> list[Term]:
        """Log p - log q of redistributed sites (all, unless given); 0 where q is 0."""
        terms = []
        for name in self.log_p if sites is None else sites:
            log_p, log_q = self.log_p[name], self.log_q[name]
            dims = union((log_p, log_q))
            p, q = log_p.aligned(dims), log_q.aligned(dims)
            p, q = torch.broadcast_tensors(p, q)
            counts = torch.isfinite(q)
            ratio = torch.where(counts, p, torch.zeros_like(p)) - torch.where(counts, q, torch.zeros_like(q))
            terms.append(Term(ratio, dims))
        return terms

    def expect(
        self, terms: Iterable[Term], tilts: dict[str, Term] | None = None, watch: Callable[..., None] | None = None
    ) -> Tensor:
        """E_q of the sum of terms, 0-dim.

        Args:
            terms: terms of -inf must have been ruled out (`find_supports`); they count as never reached.
            tilts: added to the logits of a site, for derivatives.
            watch: called with (site, what is averaged, its dims, the site's axis, its weights) at each elimination.
        """
        finite = [Term(torch.where(torch.isinf(t.tensor), torch.zeros_like(t.tensor), t.tensor), t.dims) for t in terms]
        tilts = tilts or {}

        def reduce(name: str, total: Tensor, dims: str, axis: int) -> Tensor:
            log_weights = self.log_q[name].aligned(dims)
            if name in tilts:
                log_weights = (log_weights + tilts[name].aligned(dims)).log_softmax(axis)
            weights = log_weights.exp()
            if watch is not None:
                watch(name, total, dims, axis, weights)
            return (weights * total).sum(axis)

        return eliminate(self.symbols, finite, reduce, own=self.log_q).tensor

    def bound(self) -> Tensor:
        """E_q[log factors + log p - log q], the evidence lower bound in nats, 0-dim (Levine 2018, equation 19).

        It is -inf where q reaches a term of -inf.
        """
        terms = [*self.factors.values(), *self.divergence_terms()]
        blocked = [Term(torch.isinf(term.tensor).double(), term.dims) for term in terms]
        if any(bool(term.tensor.any()) for term in blocked) and float(self.expect(blocked).detach()) > 0:
            return torch.full((), -torch.inf, dtype=torch.float64)
        return self.expect(terms)

    def advantages(
        self, contexts: dict[str, tuple[str, ...]], sizes: dict[str, int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The bound and its natural gradient with respect to the logits of q's tables.

        The derivative of the bound in a logit of q(x | c) is q(c, x) (R(c, x) - E_q[R | c]), where R is what the bound
        gains from that site on; divided by q(c, x), which preconditions by the Fisher information, it is the
        advantage of x. A step of length 1 along it is the soft greedy policy, so a chain of T steps is solved in T.

        Args:
            contexts: the sites that each redistributed site's table is indexed by.
            sizes: the number of values of each site.

        Returns:
            The bound, 0-dim, and for every redistributed site the advantages [*context, N], 0 for values ruled out.
        """
        bound, result = self._direct_advantages(contexts, sizes)
        unseen = [name for name in contexts if name not in result]
        if unseen:  # what comes later depends on more than the table sees
            result |= self._averaged_advantages({name: contexts[name] for name in unseen}, sizes)
        return bound, result

    def _direct_advantages(
        self, contexts: dict[str, tuple[str, ...]], sizes: dict[str, int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Advantages read off the backward recursion, for the sites whose future depends on their context alone.

        They need no division by q, so they are right also where q does not come (yet).
        """
        result: dict[str, Tensor] = {}

        def watch(name: str, total: Tensor, dims: str, axis: int, weights: Tensor) -> None:
            if name not in contexts:
                return
            order = "".join(self.symbols[site] for site in (*contexts[name], name))
            if set(dims) <= set(order):
                gains = total - (weights * total).sum(axis, keepdim=True)
                allowed = torch.isfinite(self.log_q[name].aligned(dims))  # also where q has underflowed to 0
                gains = torch.where(allowed, gains, torch.zeros_like(gains))
                shape = tuple(sizes[site] for site in (*contexts[name], name))
                result[name] = Term(gains, dims).aligned(order).expand(shape)

        with torch.no_grad():
            bound = self.expect([*self.factors.values(), *self.divergence_terms()], watch=watch)
        return bound, result

    def _averaged_advantages(self, contexts: dict[str, tuple[str, ...]], sizes: dict[str, int]) -> dict[str, Tensor]:
        """Advantages averaged over what a table does not see, as slope over q(c, x); 0 where q does not come."""
        tilts, marginals = {}, {}
        for name, context in contexts.items():
            dims = "".join(self.symbols[site] for site in (*context, name))
            shape = tuple(sizes[site] for site in (*context, name))
            tilts[name] = Term(torch.zeros(shape, dtype=torch.float64, requires_grad=True), dims)
            marginals[name] = Term(torch.zeros(shape, dtype=torch.float64, requires_grad=True), dims)
        with torch.enable_grad():
            bound = self.expect([*self.factors.values(), *self.divergence_terms(), *marginals.values()], tilts)
            leaves = [term.tensor for term in (*tilts.values(), *marginals.values())]
            gradients = torch.autograd.grad(bound, leaves)
        result = {}
        for name, slope, joint in zip(contexts, gradients[: len(tilts)], gradients[len(tilts) :], strict=True):
            visited = joint > 0
            gains = slope / torch.where(visited, joint, torch.ones_like(joint))
            result[name] = torch.where(visited, gains, torch.zeros_like(gains))
        return result

    def reach(self, dims: str) -> Tensor:
        """Bool, one axis for each of `dims` (of latents that are alive together): which values q can take at once."""
        names = {symbol: name for name, symbol in self.symbols.items()}
        return self.joints([tuple(names[dim] for dim in dims)])[0] > 0

    def joints(self, groups: Iterable[tuple[str, ...]]) -> list[Tensor]:
        """Joint distributions under q of sites that are alive together, as derivatives of an expectation.

        Args:
            groups: the sites of each, e.g. ("s_1", "a_1", "s_2").

        Returns:
            A tensor with one axis a site for each group, float64, summing to 1.
        """
        leaves, terms = [], []
        with torch.enable_grad():
            for group in groups:
                shape = [self.sizes[name] for name in group]
                leaves.append(torch.zeros(shape, dtype=torch.float64, requires_grad=True))
                kept = [i for i, size in enumerate(shape) if size > 1]
                dims = "".join(self.symbols[group[i]] for i in kept)
                terms.append(Term(leaves[-1].reshape([shape[i] for i in kept]), dims))
            return list(torch.autograd.grad(self.expect(terms), leaves))

    def log_table(self, name: str, context: tuple[str, ...]) -> Tensor:
        """[*context, N], the logs of q's conditional probabilities of a site."""
        dims = "".join(self.symbols[site] for site in (*context, name))
        return self.log_q[name].aligned(dims).expand([self.sizes[site] for site in (*context, name)])

    def table(self, name: str, context: tuple[str, ...]) -> Tensor:
        """[*context, N], q's conditional probabilities of a site."""
        return self.log_table(name, context).exp()

    def conditionals(self) -> dict[str, tuple[tuple[str, ...], Tensor]]:
        """By latent site in the order of the draws, its context under q, and the logs of its table [*context, N]."""
        found: dict[str, tuple[tuple[str, ...], Tensor]] = {}
        for name, term in self.log_q.items():
            context = tuple(other for other in found if self.symbols[other] in term.dims)
            found[name] = (context, self.log_table(name, context).detach().contiguous())
        return found
