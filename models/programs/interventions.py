"""Actions that are set, and actions that are known: do(a_t) against a_t as evidence, on any trajectory program.

    do          p(tau, O | do(a_t = a))   the site's own factor p(a_t | s_t) is cut out, and a_t held at a
    condition   p(tau, O, a_t = a)        the factor stays, and a_t = a is observed like optimality

Knowing an action tells about the state in which it is likely, setting it does not; the two differ where p(a_t | s_t)
depends on s_t (Pearl 2009, "Causality", section 3.2). The log evidences are log p(O | do(a_t = a)) and
log p(O, a_t = a); the second less log p(O) is the posterior's log p(a_t = a | O).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro.distributions import Categorical, Delta, TorchDistribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution

from cai.models.common.random_draws import OwnDraws
from cai.models.common.shapes import broadcast_shapes
from cai.models.continuous.world import World
from cai.models.programs.inspect import Program, ProgramInfo, inspect_program, site_time
from cai.models.programs.site_values import Value, site_name, site_value
from cai.models.rewards.tables import Step, evaluate_factor
from cai.models.trajectory.model import TrajectoryModel

__all__ = ["EVIDENCE", "RevisedProgram", "condition", "do"]

EVIDENCE = "evidence."  # what the factor of a site's evidence is called, before the site's name


@dataclass(frozen=True, eq=False, repr=False)
class RevisedProgram:
    """A trajectory program some of whose sites are set or known; made by `do` and `condition`, which check it.

    It is a program of its own, with the same sites (a site that is set draws its one value) and a factor
    `evidence.<site>` for each site that is known, so every backend for programs takes it. The factor is 0 or -inf where
    the site is discrete; where it has a density, the site draws the known value and the factor is its log density
    there. Factors are in nats, also where the program is a `TrajectoryModel` (returns then count in units of its
    temperature).

    Attributes:
        program: the program without any of that.
        interventions: values by the name of the site that is set.
        evidence: values by the name of the site that is known.
    """

    program: Program
    interventions: Mapping[str, Value] = field(default_factory=dict)
    evidence: Mapping[str, Value] = field(default_factory=dict)

    def __call__(self) -> None:
        handler = _Revise(self.interventions, self.evidence)
        with handler:
            self.program()
        unmet = [name for name in (*self.interventions, *self.evidence) if name not in handler.drawn]
        if unmet:
            raise ValueError(
                f"this run of the program did not draw {unmet[0]!r}, which is set or known; a site that is must be "
                "drawn in every run"
            )

    @property
    def __name__(self) -> str:
        """Pearl's notation, e.g. "bridge | do(a_1 = up), a_2 = left"."""
        program = self.program
        named: Any = program
        name = named.name if isinstance(program, (TrajectoryModel, World)) else getattr(program, "__name__", "program")
        parts = [f"do({self._equation(site, value)})" for site, value in self.interventions.items()]
        parts += [self._equation(site, value) for site, value in self.evidence.items()]
        return f"{name} | {', '.join(parts)}" if parts else name

    def _equation(self, site: str, value: Value) -> str:
        mdp = self.program.mdp if isinstance(self.program, TrajectoryModel) else None
        kind = (site_time(site) or ("latent",))[0]
        if isinstance(value, tuple):
            return f"{site} = {list(value)}"
        if mdp is not None and kind == "a":
            return f"{site} = {mdp.action_name(int(value))}"
        if mdp is not None and kind == "s" and value < mdp.num_states:
            return f"{site} = {mdp.state_name(int(value))}"
        return f"{site} = {value}"

    def __repr__(self) -> str:
        return f"RevisedProgram({self.__name__!r})"


def do(program: Program, actions: Mapping[int | str, Any]) -> RevisedProgram:
    """The program in which some sites are set from outside, whatever comes before them.

    Args:
        program: a `TrajectoryModel` with a finite horizon, any trajectory program, or what `do` and `condition` made.
        actions: what is set: {time index of an action, from 0, or name of a latent site: value}, e.g. {1: 0} or
            {"a_2": 0}. Values are whole numbers, any number where a site is continuous,
            and a list of numbers where it is a vector; for a `TrajectoryModel` also names of actions and states.

    Returns:
        A program whose evidence is p(O | do(...)). An action may be set that the action prior never takes.

    Raises:
        TypeError: if `actions` is no mapping, or a key or value is none that can be meant.
        ValueError: if there is no such latent site or value, the site is set or known already, or a `TrajectoryModel`
            does not say what would follow: an action is not available in a state that can be reached then, or a step
            is rewarded by an outcome that leads elsewhere.
    """
    base, info, values = _read(program, actions, "set")
    interventions = dict(base.interventions)
    for site, value in values.items():
        if site in base.evidence:
            raise ValueError(
                f"{site} is known to be {base.evidence[site]}, and setting it would cut the evidence from its causes; "
                f"set it first and then condition on other sites, or leave it out of one of the two"
            )
        if interventions.get(site, value) != value:
            raise ValueError(f"{site} is set to {interventions[site]} already; leave it out, or start from the program")
        interventions[site] = value
    if isinstance(base.program, TrajectoryModel):
        numbers = {site: int(value) for site, value in interventions.items() if not isinstance(value, tuple)}
        _check_model(base.program.host, info, numbers)
    return RevisedProgram(base.program, interventions, base.evidence)


def condition(program: Program, actions: Mapping[int | str, Any]) -> RevisedProgram:
    """The program in which some sites are known, as evidence beside optimality.

    Args:
        program: a `TrajectoryModel` with a finite horizon, any trajectory program, or what `do` and `condition` made.
        actions: what is known: {time index of an action, from 0, or name of a latent site (state, action or further
            latent): value}, values being whole numbers, any number where a site is continuous,
            and a list of numbers where it is a vector; for a `TrajectoryModel` also names of actions and states.

    Returns:
        A program whose evidence is p(O, a_t = a): the posterior is p(tau | O, a_t = a). A value that the program never
        takes makes it impossible (`Status.IMPOSSIBLE`); a chain that a discount has ended draws all actions alike. With
        the dynamics fixed only the policy can move: a known action is one that it must take, and a known state that
        chance may miss makes the bound -inf (`Status.UNAVOIDABLE`).

    Raises:
        TypeError: if `actions` is no mapping, or a key or value is none that can be meant.
        ValueError: if there is no such latent site or value, or the site is known to be something else already.
    """
    base, _, values = _read(program, actions, "known")
    evidence = dict(base.evidence)
    for site, value in values.items():
        if evidence.get(site, value) != value:
            raise ValueError(f"{site} is known to be {evidence[site]} already; it cannot be {value} as well")
        evidence[site] = value
    return RevisedProgram(base.program, base.interventions, evidence)


class _Revise(Messenger):
    """Cuts sites that are set from their causes, and adds the factors of sites that are known."""

    def __init__(self, interventions: Mapping[str, Value], evidence: Mapping[str, Value]) -> None:
        super().__init__()
        self.interventions = interventions
        self.evidence = evidence
        self.drawn: set[str] = set()
        self._densities: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        name, fn = msg["name"], msg["fn"]
        if name in self.interventions:
            self.drawn.add(name)
            msg["fn"] = _point_mass(fn, self.interventions[name])
        elif name in self.evidence and not fn.has_enumerate_support:  # a density gives no probability to one value
            msg["fn"] = _point_mass(fn, self.evidence[name])
            self._densities[name] = fn.log_prob(msg["fn"].v)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["type"] == "sample" and not msg["is_observed"] and msg["name"] in self.evidence:
            self.drawn.add(msg["name"])
            if msg["name"] in self._densities:
                pyro.factor(f"{EVIDENCE}{msg['name']}", self._densities.pop(msg["name"]))
                return
            value = msg["value"]
            score = msg["fn"].log_prob(value)
            # A new tensor: what is known depends on its site alone, not on what the site's score was computed from.
            zero = torch.zeros((), dtype=score.dtype, device=score.device)
            known: Any = self.evidence[msg["name"]]
            hit = value == known
            pyro.factor(f"{EVIDENCE}{msg['name']}", torch.where(hit, zero, zero - torch.inf))


def _point_mass(fn: Distribution, value: Any) -> Distribution:
    """All mass on one value of the support, whatever the parents are."""
    if not fn.has_enumerate_support:
        with OwnDraws():
            drawn = fn.sample()
        known = torch.tensor(value, dtype=drawn.dtype, device=drawn.device)
        return Delta(known, event_dim=len(fn.event_shape), validate_args=False)
    support = fn.enumerate_support(expand=False)
    like = fn.logits if isinstance(fn, Categorical) else fn.log_prob(support)
    at = torch.arange(support.shape[0], device=like.device) == value
    # New tensors: those of the site would carry what it was computed from into the factor graph.
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    logits = torch.where(at, zero, zero - torch.inf)
    return Categorical(logits=logits, validate_args=False) if isinstance(fn, Categorical) else PointMass(fn, logits)


class PointMass(TorchDistribution):
    """One value of the support 0..N-1 of a discrete distribution that is no Categorical, in its own value type.

    Args:
        base: the distribution whose support is kept.
        logits: [N], 0 at the value and -inf elsewhere.
        batch_shape: of the distribution.
    """

    arg_constraints: dict[str, Any] = {}
    has_enumerate_support = True

    def __init__(self, base: Distribution, logits: Tensor, batch_shape: torch.Size = torch.Size()) -> None:
        self.base = base
        self.logits = logits
        super().__init__(batch_shape, torch.Size(), validate_args=False)

    @property
    def support(self) -> Any:
        """That of the base."""
        return self.base.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> PointMass:
        """A distribution with the larger batch shape."""
        return PointMass(self.base, self.logits, torch.Size(batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """The value."""
        values = self.base.enumerate_support(expand=False).reshape(-1)
        return values[self.logits.argmax()].expand(torch.Size(sample_shape) + self.batch_shape).clone()

    def log_prob(self, value: Tensor) -> Tensor:
        """0 at the value, -inf elsewhere."""
        index = torch.as_tensor(value).long()
        return self.logits[index].expand(broadcast_shapes(index.shape, self.batch_shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """[N, ...], in the value type of the base."""
        values = self.base.enumerate_support(expand=False).reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values


# ---- reading what is set or known ---------------------------------------------------------------------------------


def _read(
    program: Program, actions: Mapping[int | str, Any], how: str
) -> tuple[RevisedProgram, ProgramInfo, dict[str, Value]]:
    """(the program with what is set and known so far, its outside, {site: value})."""
    base = program if isinstance(program, RevisedProgram) else RevisedProgram(program)
    info = inspect_program(base.program)
    if not isinstance(actions, Mapping):
        raise TypeError(
            f"what is {how} is given as {actions!r}; give a dict from time index or site name to value, "
            "e.g. {0: 1} or {'a_1': 1}"
        )
    values: dict[str, Value] = {}
    for key, value in actions.items():
        site = site_name(key, info, how)
        if site in values:
            raise ValueError(f"{site} is given twice, by its name and by its time index {key!r}; give it once")
        values[site] = site_value(site, value, info, base.program)
    return base, info, values


def _check_model(model: TrajectoryModel, info: ProgramInfo, interventions: Mapping[str, int]) -> None:
    """Refuses interventions after which a trajectory model does not say what happens, or what it pays."""
    further = [site for site in interventions if site in info.further]
    if further:
        raise ValueError(
            f"{further[0]} is the number of an outcome, which means something else after every state and action; set "
            "the action or the next state instead"
        )
    mdp = model.mdp
    states = torch.arange(mdp.num_states)
    actions = torch.arange(mdp.num_actions)
    reached = states == interventions["s_1"] if "s_1" in interventions else mdp.initial > 0
    last = max((t for kind, t in filter(None, map(site_time, interventions))), default=0)
    for t in range(min(model.steps, last)):
        chosen, following = interventions.get(f"a_{t + 1}"), interventions.get(f"s_{t + 2}")
        taken = model.action_prior > 0 if chosen is None else (actions == chosen).expand(mdp.num_states, -1)
        tried = (reached & model.nonterminal)[:, None] & taken
        unknown = tried & ~mdp.available
        if unknown.any():
            state, action = torch.nonzero(unknown)[0].tolist()
            raise ValueError(_not_available(model, reached, state, action, t))
        if following is None:
            moves = (reached[:, None] & taken)[..., None] & (mdp.probabilities > 0)
            reached = mdp.scatter(moves.double()) > 0
            continue
        if following < mdp.num_states:
            _check_reward(model, tried, following, t)
        reached = states == following


def _not_available(model: TrajectoryModel, reached: Tensor, state: int, action: int, t: int) -> str:
    mdp = model.mdp
    shared = mdp.available[reached & model.nonterminal].all(0)
    names = ", ".join(mdp.action_name(a) for a in torch.nonzero(shared)[:, 0].tolist())
    return (
        f"a_{t + 1} is set to {mdp.action_name(action)}, which is not available in state {mdp.state_name(state)}, "
        f"where the run can be then (time index {t}); "
        + (f"available in every such state: {names}" if names else "no action is available in every such state")
        + "; or condition on it, which rules such states out"
    )


def _check_reward(model: TrajectoryModel, tried: Tensor, following: int, t: int) -> None:
    """Refuses to set s_{t+2} where the step before is rewarded by its outcome, which may lead elsewhere."""
    mdp, site = model.mdp, f"s_{t + 2}"
    if not model.reward.reads_outcome or (mdp.is_dense and not model.has_outcome_sites):
        return
    advice = "set the action before it, or condition on the state"
    if model.has_outcome_sites:
        raise ValueError(
            f"{site} cannot be set: the reward at time index {t} is that of an outcome k_{t + 1}, which is drawn "
            f"before the state and may lead elsewhere; {advice}"
        )
    shape = mdp.probabilities.shape
    state, action, outcome = (
        torch.arange(size).reshape([-1 if axis == i else 1 for i in range(3)]) for axis, size in enumerate(shape)
    )
    step = Step(state, action, outcome, torch.full((1, 1, 1), following), t)
    rewards = evaluate_factor(model.reward, mdp, step).detach().expand(shape)
    differs = (rewards != rewards[..., :1]).any(-1)
    leads = ((mdp.next_states == following) & (mdp.probabilities > 0)).any(-1)
    unknown = tried & differs & ~leads
    if unknown.any():
        where, taken = torch.nonzero(unknown)[0].tolist()
        raise ValueError(
            f"{site} cannot be set to {mdp.state_name(following)}: rewards are given for listed outcomes, and none of "
            f"action {mdp.action_name(taken)} in state {mdp.state_name(where)} leads there, so the reward at time "
            f"index {t} is not known; {advice}, or write the reward as a function of the next state"
        )
