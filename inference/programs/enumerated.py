"""The enumerated bound: expectations under q by Pyro's enumeration of q's own program.

Pyro enumerates q's program on the model side, which keeps every variable's dimension apart also where the program
reads r(s_t, a_t, s_{t+1}) or draws s_{t+1} at the end of iteration t (enumerating a guide under `pyro.markov` is wrong
there). With all factors scaled by lambda, log Z has the derivative E_q[...] at lambda = 0. Since every conditional of
q is normalised, that derivative is a backward recursion, which needs no logarithm of a message:

    R(context) = sum_x q(x | context) (f(x, context) + R(x, context)),       the last drawn site first.

It is linear in the terms f = log factor + log p - log q, so values of 1e4 cost no digit, and gradients are plain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.infer import config_enumerate
from pyro.ops import packed
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor

from cai.inference.programs.exact_sites import ExactSites
from cai.inference.programs.guide import Redistribute, StructuredGuide
from cai.models.programs.inspect import explain

__all__ = [
    "EnumeratedProgram",
    "Term",
    "can_succeed",
    "eliminate",
    "enumerate_guide",
    "enumerate_program",
    "find_supports",
]


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


@dataclass(frozen=True, eq=False)
class EnumeratedProgram:
    """One enumerated run of q's program.

    Attributes:
        order: latent sites as they were drawn.
        symbols: their dimensions.
        log_q: their log probabilities under q.
        log_p: under the program itself, for the sites that q has redistributed.
        factors: log factors by site, probes left out.
        probes: those of `JointProbe`.
    """

    order: tuple[str, ...]
    symbols: dict[str, str]
    log_q: dict[str, Term]
    log_p: dict[str, Term]
    factors: dict[str, Term]
    probes: dict[str, Term]

    def detach(self) -> EnumeratedProgram:
        """The same tables without their autograd history."""

        def cut(terms: dict[str, Term]) -> dict[str, Term]:
            return {name: Term(term.tensor.detach(), term.dims) for name, term in terms.items()}

        return EnumeratedProgram(
            self.order, self.symbols, cut(self.log_q), cut(self.log_p), cut(self.factors), cut(self.probes)
        )

    def divergence_terms(self, sites: Iterable[str] | None = None) -> list[Term]:
        """Log p - log q of redistributed sites (all, unless given); 0 where q is 0."""
        terms = []
        for name in self.log_p if sites is None else sites:
            log_p, log_q = self.log_p[name], self.log_q[name]
            dims = _union((log_p, log_q))
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

        return eliminate(self, finite, reduce, _add).tensor

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
        size = {self.symbols[name]: _size(self, name) for name in self.order}
        leaf = torch.zeros([size[dim] for dim in dims], dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            (joint,) = torch.autograd.grad(self.expect([Term(leaf, dims)]), leaf)
        return joint > 0

    def table(self, name: str, context: tuple[str, ...], sizes: dict[str, int]) -> Tensor:
        """[*context, N], q's conditional probabilities of a site."""
        dims = "".join(self.symbols[site] for site in (*context, name))
        shape = tuple(sizes[site] for site in (*context, name))
        return self.log_q[name].aligned(dims).exp().expand(shape)


def _add(parts: list[Tensor]) -> Tensor:
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def _union(terms: Iterable[Term]) -> str:
    return "".join(sorted(set().union(*(term.dims for term in terms))))


def enumerate_program(
    program: Callable[[], Any], handler: Callable[[], Redistribute | None] = lambda: None
) -> EnumeratedProgram:
    """Runs a program with every latent enumerated.

    Args:
        program: q's own program, or any trajectory program.
        handler: tells, after the run, which sites were redistributed.

    Raises:
        ValueError: if tensor dimensions run out, or a latent is continuous.
    """
    try:
        with EnumMessenger(first_available_dim=-1):
            trace = poutine.trace(config_enumerate(ExactSites()(program), default="parallel")).get_trace()
        trace.compute_log_prob()
        trace.pack_tensors()
    except (RuntimeError, ValueError, IndexError) as error:
        text = str(error)
        if "dim" in text and any(word in text for word in ("64", "25", "maximum", "too many", "Dims")):
            raise ValueError(
                "the program needs more tensor dimensions than torch has; write its loop as "
                "'for t in pyro.markov(range(T))', so that dimensions of past steps are used again"
            ) from error
        if "Invalid tensor shape" in text or "dim conflict" in text:
            raise ValueError(
                "a site reads variables that are out of scope where it stands; keep each step's factor inside the "
                "pyro.markov loop, and give the loop history=2 or more where it looks further back "
                f"({' '.join(text.split(':')[0].split())})"
            ) from error
        raise ValueError(f"the program failed when every latent was enumerated: {explain(error)}") from error
    redistributed = handler()
    originals = {} if redistributed is None else redistributed.originals
    order: list[str] = []
    symbols: dict[str, str] = {}
    log_q: dict[str, Term] = {}
    log_p: dict[str, Term] = {}
    factors: dict[str, Term] = {}
    probes: dict[str, Term] = {}
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or node["infer"].get("_deterministic", False):
            continue
        value = node["packed"]["log_prob"]
        term = Term(value, value._pyro_dims)
        if node["is_observed"]:
            (probes if name.startswith("_joint_") else factors)[name] = term
            continue
        if node["infer"].get("_enumerate_dim") is None:
            raise ValueError(
                f"latent site {name!r} is not discrete, so it cannot be enumerated; use 'smc', which draws"
            )
        order.append(name)
        symbols[name] = node["infer"]["_enumerate_symbol"]
        log_q[name] = term
        if name in originals:
            own = packed.pack(originals[name].log_prob(node["value"]), node["infer"]["_dim_to_symbol"])
            log_p[name] = Term(own, own._pyro_dims)
    return EnumeratedProgram(tuple(order), symbols, log_q, log_p, factors, probes)


def enumerate_guide(guide: StructuredGuide) -> EnumeratedProgram:
    """Runs a structured guide with every latent enumerated."""
    return enumerate_program(guide, lambda: guide.handler)


def eliminate(
    run: EnumeratedProgram,
    terms: Iterable[Term],
    reduce: Callable[[str, Tensor, str, int], Tensor],
    combine: Callable[[list[Tensor]], Tensor],
) -> Term:
    """Eliminates the latents, the last drawn first; what is left has no dimension.

    Args:
        run: the enumerated program.
        terms: what is carried backward.
        reduce: (site, combined terms, their dims, axis) -> the combined terms without that axis.
        combine: makes one tensor of several that broadcast.
    """
    waiting = list(terms)
    for name in reversed(run.order):
        symbol = run.symbols[name]
        involved = [term for term in waiting if symbol in term.dims]
        if not involved:
            continue
        waiting = [term for term in waiting if symbol not in term.dims]
        dims = "".join(sorted(set(_union(involved)) | set(run.log_q[name].dims)))
        total = combine([term.aligned(dims) for term in involved])
        axis = dims.index(symbol)
        waiting.append(Term(reduce(name, total, dims, axis), dims.replace(symbol, "")))
    return Term(combine([term.tensor for term in waiting]), "") if waiting else Term(torch.zeros(()).double(), "")


def find_supports(run: EnumeratedProgram, contexts: dict[str, tuple[str, ...]]) -> tuple[dict[str, Tensor], bool]:
    """Which values keep q clear of factors of -inf, by eliminating yes-or-no messages.

    A redistributed site may choose: it keeps the values from which -inf can be avoided for sure. Every other site is
    chance: all its possible values must be clear. What a site's table does not see counts as chance too, as far as it
    can be met under the program's own support; this may rule out more than the best q would.

    Args:
        run: the enumerated program under q.
        contexts: the sites that each redistributed site's table is indexed by.

    Returns:
        Bool tables [*context, N] for the redistributed sites (where no value is clear, all are kept), and whether
        -inf is avoided from the start on.
    """
    terms = [Term(~torch.isinf(term.tensor), term.dims) for term in run.factors.values()]
    terms += [Term(~torch.isinf(term.tensor), term.dims) for term in run.divergence_terms()]
    if all(bool(term.tensor.all()) for term in terms):
        return {}, True
    supports: dict[str, Tensor] = {}

    def reduce(name: str, clear: Tensor, dims: str, axis: int) -> Tensor:
        possible = torch.isfinite(run.log_q[name].aligned(dims))
        if name not in contexts:
            return (clear | ~possible).all(axis)
        order = "".join(run.symbols[site] for site in (*contexts[name], name))
        unseen = [i for i, dim in enumerate(dims) if dim not in order]
        seen = clear
        if unseen:  # what the table does not see must be clear whatever it is, as far as it can be
            others = dims.replace(run.symbols[name], "")
            met = Term(run.reach(others), others).aligned(dims)
            seen = (clear | ~met).all(unseen, keepdim=True)
        allowed = seen & possible
        kept = torch.where(allowed.any(axis, keepdim=True), allowed, possible)
        sizes = tuple(_size(run, site) for site in (*contexts[name], name))
        table = kept.any(unseen) if unseen else kept
        left = "".join(dim for dim in dims if dim in order)
        supports[name] = Term(table, left).aligned(order).expand(sizes)
        return allowed.any(axis)

    clear = eliminate(run, terms, reduce, _every)
    return supports, bool(clear.tensor)


def can_succeed(run: EnumeratedProgram) -> bool:
    """Whether some trajectory of positive probability keeps clear of -inf: p(O) > 0."""
    terms = [Term(~torch.isinf(term.tensor), term.dims) for term in run.factors.values()]

    def reduce(name: str, clear: Tensor, dims: str, axis: int) -> Tensor:
        return (clear & torch.isfinite(run.log_q[name].aligned(dims))).any(axis)

    return bool(eliminate(run, terms, reduce, _every).tensor)


def _every(parts: list[Tensor]) -> Tensor:
    result = parts[0]
    for part in parts[1:]:
        result = result & part
    return result


def _size(run: EnumeratedProgram, site: str) -> int:
    term = run.log_q[site]
    return int(term.tensor.shape[term.dims.index(run.symbols[site])]) if run.symbols[site] in term.dims else 1
