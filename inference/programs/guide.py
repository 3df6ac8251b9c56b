"""The structured guide, derived from a program by effect handlers, and programs run with every latent enumerated.

q is the program itself with its action sites re-distributed by a policy pi(a_t | s_t), its dynamics untouched (Levine
2018, section 3.2, equation 18) or freed, in which case every other latent gets conditionals of its own too. Nothing
is written beside the program, so every program has its guide.

Sites are read as their author meant them: zero stays zero, and sums are float64. `Categorical(probs=...)` clamps 0 to
1e-7 in float32, and an optimistic posterior then walks through walls; a float32 observation rounds its score; and
float32 next to float64 breaks Pyro's contractions. A program need not know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Categorical, TorchDistribution, Unit
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer import config_enumerate
from pyro.ops import packed
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from cai.inference.programs.enumerated import EnumeratedProgram, Term
from cai.models.common.numerics import safe_log
from cai.models.common.shapes import broadcast_shapes
from cai.models.programs.inspect import Program, ProgramInfo, failure, inspect_program, site_time
from cai.models.programs.scores import bad_score

__all__ = [
    "POLICY",
    "PREFIX",
    "ExactSites",
    "Redistribute",
    "Redistributed",
    "StructuredGuide",
    "drawn_sites",
    "enumerate_guide",
    "enumerate_program",
    "free_name",
    "redistribute",
    "support_logits",
]

PREFIX = "cai.guide."
POLICY = f"{PREFIX}policy"


class Redistributed(TorchDistribution):
    """Other probabilities on the support 0..N-1 of a discrete distribution that is no Categorical.

    Args:
        base: the distribution whose support and value type are kept.
        logits: [..., N], unnormalised log probabilities.
    """

    arg_constraints: dict[str, Any] = {}
    has_enumerate_support = True

    def __init__(self, base: Distribution, logits: Tensor) -> None:
        self.base = base
        self.categorical = Categorical(logits=logits, validate_args=False)
        super().__init__(self.categorical.batch_shape, torch.Size(), validate_args=False)

    @property
    def support(self) -> Any:
        """That of the base."""
        return self.base.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Redistributed:
        """A distribution with the larger batch shape."""
        shape = torch.Size(batch_shape)
        return Redistributed(self.base, self.categorical.logits.expand(shape + self.categorical.logits.shape[-1:]))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Draws in the value type of the base."""
        return self.categorical.sample(sample_shape).to(self.base.enumerate_support(expand=False).dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log q(value)."""
        return self.categorical.log_prob(torch.as_tensor(value).long())

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """[N, ...], in the value type of the base."""
        values = self.base.enumerate_support(expand=False).reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values


def support_logits(fn: Distribution) -> Tensor:
    """[..., N], log probabilities of a discrete distribution over its support, float64, with its exact zeros."""
    if isinstance(fn, Redistributed):
        return fn.categorical.logits
    given = fn.__dict__.get("probs")
    if isinstance(fn, Categorical):
        return fn.logits.double() if given is None else safe_log(given.double())
    if isinstance(fn, Bernoulli) and given is not None:
        return safe_log(torch.stack([1 - given.double(), given.double()], -1))
    return fn.log_prob(fn.enumerate_support(expand=False)).movedim(0, -1).double()


def redistribute(fn: Distribution, logits: Tensor) -> Distribution:
    """The same support with other log probabilities [..., N]."""
    if isinstance(fn, Categorical):
        return Categorical(logits=logits, validate_args=False)
    return Redistributed(fn.base if isinstance(fn, Redistributed) else fn, logits)


class ExactSites(Messenger):
    """Gives every discrete latent exact float64 logits, and every observation its float64 score."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["type"] != "sample" or msg["done"] or not isinstance(fn, TorchDistributionMixin):
            return
        if msg["infer"].get("_deterministic", False):  # a record of pyro.deterministic, which scores nothing
            return
        if msg["is_observed"]:
            if isinstance(fn, Unit):
                score = fn.log_factor
            else:
                score = _score(fn, torch.as_tensor(msg["value"]))
                msg["value"] = torch.empty((*score.shape, 0))
            msg["fn"] = Unit(score.double(), validate_args=False)
        elif fn.has_enumerate_support and not fn.event_shape and not _is_exact(fn):
            msg["fn"] = redistribute(fn, support_logits(fn))


def _score(fn: Distribution, value: Tensor) -> Tensor:
    """Log p(value) in float64, -inf where the probability is exactly 0."""
    if isinstance(fn, (Bernoulli, Categorical)):
        logits = support_logits(fn)
        index = value.long().expand(broadcast_shapes(value.shape, logits.shape[:-1]))
        return logits.expand(*index.shape, -1).gather(-1, index[..., None])[..., 0]
    return fn.log_prob(value.double() if value.is_floating_point() else value)


def _is_exact(fn: Distribution) -> bool:
    if isinstance(fn, Redistributed):
        return True
    return isinstance(fn, Categorical) and "probs" not in fn.__dict__ and fn.logits.dtype == torch.float64


def free_name(site: str) -> str:
    """The name of a freed site's parameter."""
    return f"{PREFIX}free.{site}"


class Redistribute(Messenger):
    """Gives action sites the policy at the last seen state, and freed sites conditionals of their own.

    Args:
        policy: [T, S, A], logits.
        supports: for sites by name, bool tables over their context and values; what is false gets probability 0.
        free: for freed sites by name, tables [*context, N] of logits added to the program's own; None leaves all
            other latents untouched.

    Attributes:
        originals: after a run, every redistributed site's own distribution.
        contexts: after a run, the sites that each redistributed site's table is indexed by.
    """

    def __init__(self, policy: Tensor, supports: dict[str, Tensor], free: FreeTables | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.supports = supports
        self.free = free
        self.originals: dict[str, Distribution] = {}
        self.contexts: dict[str, tuple[str, ...]] = {}
        self._values: dict[str, Tensor] = {}

    def __enter__(self) -> Any:
        self.originals, self.contexts, self._values = {}, {}, {}
        return super().__enter__()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["type"] != "sample":
            return
        name, fn, site = msg["name"], msg["fn"], site_time(msg["name"])
        if site and site[0] == "a":
            context: tuple[str, ...] = (f"s_{site[1]}",)
            logits = self.policy[site[1] - 1][self._index(context)]
        elif self.free is not None:
            context = tuple(self._values)
            own = support_logits(fn)
            sizes = tuple(self.free.sizes[other] for other in context)
            logits = own + self.free.table(name, (*sizes, own.shape[-1]))[self._index(context)]
        else:
            return
        if name in self.supports:
            allowed = self.supports[name][self._index(context)]
            logits = logits.masked_fill(~allowed, -torch.inf)
        self.originals[name], self.contexts[name] = fn, context
        msg["fn"] = redistribute(fn, logits)

    def _index(self, context: tuple[str, ...]) -> Any:
        return tuple(self._values[name].long() for name in context) or ...

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["type"] != "sample":
            return
        site = site_time(msg["name"])
        if site and site[0] == "s":
            self._values = {}  # a step's context starts anew at its state
        self._values[msg["name"]] = msg["value"]


class FreeTables:
    """The parameters of freed sites, made when a site is first drawn."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self.sizes = sizes

    def table(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Logits [*context, N], zero (the program's own conditionals) to begin with."""
        return pyro.param(free_name(name), lambda: torch.zeros(shape, dtype=torch.float64))


def drawn_sites(nodes: Any, kind: str, count: int, num_samples: int) -> Tensor:
    """[N, count], the values of the sites `kind`_1 .. `kind`_count of a run under a plate of N samples."""
    values = [nodes[f"{kind}_{t}"]["value"].long().reshape(-1).expand(num_samples) for t in range(1, count + 1)]
    return torch.stack(values, -1)


class StructuredGuide:
    """q's own program: call it to draw a trajectory from q (its factors are kept as sites, and score nothing in q).

    Args:
        program: a `TrajectoryModel` or any trajectory program.
        free_dynamics: whether start and dynamics move too.
        supports: for sites by name, bool tables over their context and values; what is false gets probability 0.
        info: of the program, if it is known already.

    The parameters live in the parameter store that Pyro uses where the guide is called, under names that begin with
    PREFIX: the policy's logits [T, S, A], and a table for each freed site.
    """

    def __init__(
        self,
        program: Program,
        *,
        free_dynamics: bool = False,
        supports: dict[str, Tensor] | None = None,
        info: ProgramInfo | None = None,
    ) -> None:
        self.program = program
        self.info = info or inspect_program(program)
        self.free_dynamics = free_dynamics
        self.supports = {} if supports is None else supports
        self.handler: Redistribute | None = None

    def __call__(self) -> None:
        info = self.info
        shape = (info.horizon, info.num_states, info.num_actions)
        policy = pyro.param(POLICY, lambda: torch.zeros(shape, dtype=torch.float64))
        free = FreeTables(info.sizes) if self.free_dynamics else None
        self.handler = Redistribute(policy, self.supports, free)
        with self.handler, ExactSites():
            self.program()


def enumerate_program(
    program: Callable[[], Any],
    handler: Callable[[], Redistribute | None] = lambda: None,
    *,
    unchanged: Program | None = None,
) -> EnumeratedProgram:
    """Runs a program with every latent enumerated.

    Args:
        program: q's own program, or any trajectory program.
        handler: tells, after the run, which sites were redistributed.
        unchanged: what q's program was made of, in which a site that scores no number is looked for.

    Raises:
        ValueError: if tensor dimensions run out, a latent is continuous, or a site scores NaN (a factor: +inf) for some
            of its values.
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
        raise ValueError(
            failure(unchanged or program, "the program failed when every latent was enumerated", error)
        ) from error
    redistributed = handler()
    originals = {} if redistributed is None else redistributed.originals
    symbols: dict[str, str] = {}
    log_q: dict[str, Term] = {}
    log_p: dict[str, Term] = {}
    factors: dict[str, Term] = {}
    for name, node in trace.nodes.items():
        if node["type"] != "sample" or node["infer"].get("_deterministic", False):
            continue
        value = node["packed"]["log_prob"]
        term = Term(value, value._pyro_dims)
        refuse_bad_score(name, term, symbols, is_factor=node["is_observed"])
        if node["is_observed"]:
            factors[name] = term
            continue
        if node["infer"].get("_enumerate_dim") is None:
            raise ValueError(
                f"latent site {name!r} is not discrete, so it cannot be enumerated; use 'smc', which draws"
            )
        symbols[name] = node["infer"]["_enumerate_symbol"]
        log_q[name] = term
        if name in originals:
            own = packed.pack(originals[name].log_prob(node["value"]), node["infer"]["_dim_to_symbol"])
            log_p[name] = Term(own, own._pyro_dims)
    return EnumeratedProgram(symbols, log_q, log_p, factors)


def refuse_bad_score(name: str, term: Term, symbols: dict[str, str], *, is_factor: bool) -> None:
    """Raises ValueError if a site's log probability is no number, naming the values for which it is none."""
    score = term.tensor.detach()
    bad = torch.isnan(score) | (score == torch.inf)
    if not bool(bad.any()):
        return
    place = tuple(torch.nonzero(bad)[0].tolist())
    sites = {symbol: site for site, symbol in symbols.items()}
    at = {sites[dim]: index for dim, index in zip(term.dims, place, strict=True) if dim in sites}
    values = {site: at[site] for site in symbols if site in at}
    if message := bad_score(name, score[place], values, is_factor=is_factor):
        raise ValueError(message)


def enumerate_guide(guide: StructuredGuide) -> EnumeratedProgram:
    """Runs a structured guide with every latent enumerated."""
    return enumerate_program(guide, lambda: guide.handler, unchanged=guide.program)
