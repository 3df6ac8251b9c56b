"""The reward of a continuous model, term by term: what an answer expects of each, and what each pays in the world."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cai.inference.core.backend import Backend
from cai.inference.core.posterior import Posterior
from cai.inference.core.status import NotKnown
from cai.inference.gaussian.moments import Moments, expected_rewards, forward
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.inference.gaussian.read import read_problem
from cai.inference.gaussian.worth import true_belief
from cai.inference.planning.local_posterior import LocalPosterior
from cai.inference.planning.plans import PlanPosterior
from cai.inference.registry import infer
from cai.models.common.numerics import plain_number
from cai.models.common.random_draws import seeded
from cai.models.common.storage import Saved, can_store, storable
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.quadratic import QuadraticReward
from cai.models.continuous.world import World

if TYPE_CHECKING:
    import pandas as pd
    import xarray
    from matplotlib.figure import Figure

__all__ = ["ContinuousExplanation", "explain_continuous"]

Term = Callable[[Tensor, Tensor, int], Tensor]
APART = 1e-9  # of the reward: how far its terms may be from adding up to it
FINAL = "final"


def _parts(explanation: ContinuousExplanation) -> dict[str, Any]:
    """What a file keeps; functions stay behind."""
    kept = {name: getattr(explanation, name) for name in explanation.__dataclass_fields__}
    return kept | {"model": explanation.model if can_store(explanation.model) else None}


@storable("continuous-explanation", pack=_parts)
@dataclass(frozen=True, eq=False, repr=False)
class ContinuousExplanation(Saved):
    """What each term of a reward is worth along an answer q, and to its policy in the true world. N terms, T steps.

    Attributes:
        model: what was asked.
        posterior: q, the answer.
        terms: what the terms are called; "final" is the reward of s_{T+1}, which the last step pays.
        believed: [T, N], what q expects of each term at each step, reward units; None where q draws no trajectories.
        real: [T, N], what the policy of q gets of each in the true world, reward units.
        believed_error: [N], standard errors of the sums over steps of `believed`; None where nothing was estimated.
        real_error: [N], the same of `real`.
        policy_divergence: KL of q's policy from the action prior (minus its entropy where that is flat), nats; None
            where it is not known.
        luck: KL of q's dynamics and start from the true ones, nats; None where it is not known.
        total: the bound, sum of `believed` / alpha - policy_divergence - luck, nats; None where it is not known.
    """

    model: Any
    posterior: Posterior
    terms: tuple[str, ...]
    believed: Tensor | None
    real: Tensor
    believed_error: Tensor | None
    real_error: Tensor | None
    policy_divergence: float | None
    luck: float | None
    total: float | None

    def __repr__(self) -> str:
        bound = "" if self.total is None else f" {self.total:.6g} nats over"
        return (
            f"ContinuousExplanation by {self.posterior.backend!r}:{bound} {len(self.real)} steps and "
            f"{len(self.terms)} terms; see to_frame()"
        )

    def to_frame(self) -> pd.DataFrame:
        """A row for each term and each cost, and their total.

        Columns: believed and real return with their standard errors and their difference (reward units), and the share
        of the bound (nats). What is not known is null.
        """
        import pandas as pd

        alpha = plain_number(self.posterior.temperature)
        rows: list[dict[str, Any]] = []
        for i, term in enumerate(self.terms):
            believed = None if self.believed is None else float(self.believed[:, i].sum())
            real = float(self.real[:, i].sum())
            row: dict[str, Any] = {"share": term, "kind": "reward", "believed": believed}
            row["believed_error"] = None if self.believed_error is None else float(self.believed_error[i])
            row |= {"real": real, "real_error": None if self.real_error is None else float(self.real_error[i])}
            row |= {"gap": _less(believed, real), "nats": None if believed is None else believed / alpha}
            rows.append(row)
        for name, paid in (("policy KL", self.policy_divergence), ("luck", self.luck)):
            rows.append({"share": name, "kind": "cost", "nats": None if paid is None else 0.0 - paid})
        believed = None if self.believed is None else float(self.believed.sum())
        real = float(self.real.sum())
        total = {"share": "total", "kind": "total", "believed": believed, "real": real, "gap": _less(believed, real)}
        return pd.DataFrame([*rows, total | {"nats": self.total}]).set_index("share")

    def to_xarray(self) -> xarray.Dataset:
        """What is believed and real with named axes: time (1 .. T) and share (the terms)."""
        import xarray

        found = {"real": (("time", "share"), self.real.numpy())}
        if self.believed is not None:
            found["believed"] = (("time", "share"), self.believed.numpy())
        coordinates = {"time": list(range(1, len(self.real) + 1)), "share": list(self.terms)}
        return xarray.Dataset(found, coords=coordinates, attrs={"backend": self.posterior.backend})

    def plot(self, **options: Any) -> Figure:
        """Each term, believed beside real, in all and over time; see `plot_continuous_explanation`."""
        from cai.studies.explain_plots import plot_continuous_explanation

        return plot_continuous_explanation(self, **options)


def explain_continuous(
    model: World, backend: str | Backend, *, terms: Mapping[str, Term] | None, num_rollouts: int, seed: int
) -> ContinuousExplanation:
    """Splits the reward of a continuous model along the answer to it; see `cai.explain_reward`.

    Args:
        model: with a finite horizon, and no batch.
        backend: whose answer, e.g. "exact", "ilqr" or "smc".
        terms: of the reward of a step, functions (s, a, t) -> [...] by name; what the reward's own method `terms` or a
            `QuadraticReward` says, unless given.
        num_rollouts: how many trajectories are drawn where expectations are not exact.
        seed: of backend and rollouts.

    Raises:
        ValueError: if the horizon is infinite, the model a batch, the terms do not add up to the reward, or the answer
            holds no policy.
    """
    if not model.is_finite:
        raise ValueError("explain_reward looks at each step in turn, and the horizon is infinite; give horizon=N")
    if model.batch_shape:
        index = ", ".join("0" for _ in model.batch_shape)
        raise ValueError(
            f"the model is a batch of shape {list(model.batch_shape)}; explain one of them, model.member({index})"
        )
    if num_rollouts < 2:
        raise ValueError(f"num_rollouts is {num_rollouts}; a standard error needs at least 2")
    posterior = infer(model, backend, seed=seed)
    with torch.no_grad():
        if isinstance(model, LinearGaussianModel) and isinstance(posterior, GaussianPosterior) and terms is None:
            pieces = _quadratic_terms(model)
            truth = forward(true_belief(posterior.problem), posterior.conduct)
            names: tuple[str, ...] = tuple(pieces)
            believed: Tensor | None = _expected(model, pieces, posterior.moments)
            real = _expected(model, pieces, truth)
            errors: tuple[Tensor | None, Tensor | None] = None, None
        else:
            functions = _functions(model, terms)
            ends = model.last_reward(torch.zeros(1, model.state_dim, dtype=torch.float64))
            names = (*functions, *([] if ends is None else [FINAL]))
            believed, real, errors = _sampled(model, posterior, functions, num_rollouts, seed)
    numbers = {name: posterior.number(name) for name in ("policy_divergence", "luck", "elbo")}
    plain = {name: None if value is None else float(value.detach()) for name, value in numbers.items()}
    return ContinuousExplanation(
        model=model,
        posterior=posterior,
        terms=names,
        believed=believed,
        real=real,
        believed_error=errors[0],
        real_error=errors[1],
        policy_divergence=plain["policy_divergence"],
        luck=plain["luck"],
        total=plain["elbo"],
    )


# ---- quadratic rewards, exactly ----------------------------------------------------------------------------------


def _quadratic_terms(model: LinearGaussianModel) -> dict[str, QuadraticReward]:
    """The terms of a quadratic reward that are not zero throughout."""
    own = model.reward
    pieces = {
        "state (Q, q)": ("Q", "q"),
        "action (R, r)": ("R", "r"),
        "state and action (N)": ("N",),
        "constant": ("const",),
    }
    found = {
        name: QuadraticReward(**{part: getattr(own, part) for part in parts})
        for name, parts in pieces.items()
        if any(bool(getattr(own, part).any()) for part in parts)
    }
    return found | ({FINAL: QuadraticReward(final=own.final)} if own.has_final else {})


def _expected(model: LinearGaussianModel, pieces: Mapping[str, QuadraticReward], moments: Moments) -> Tensor:
    """[T, N], of what the discount leaves of each step; the last step with what its outcome pays."""
    columns = [torch.zeros(model.steps, 0, dtype=torch.float64)]
    for piece in pieces.values():
        paid = expected_rewards(read_problem(model.replace(reward=piece)), moments)
        columns.append(torch.cat([paid[:-2], paid[-2:].sum(0, keepdim=True)])[:, None])
    return torch.cat(columns, -1)


# ---- functions, by trajectories ----------------------------------------------------------------------------------


def _functions(model: World, terms: Mapping[str, Term] | None) -> dict[str, Term]:
    """The terms of the reward of a step by name."""
    reward = getattr(model, "reward", None)
    if terms is None:
        own = getattr(reward, "terms", None)
        terms = own() if callable(own) else {"step": model.step_reward}
        if isinstance(model, LinearGaussianModel):
            pieces = {name: piece for name, piece in _quadratic_terms(model).items() if name != FINAL}
            terms = {name: model.replace(reward=piece).step_reward for name, piece in pieces.items()}
    if not isinstance(terms, Mapping) or not all(callable(term) for term in terms.values()):
        raise TypeError(
            f"terms is {terms!r:.80}; give functions (s, a, t) -> [...] by name, which add up to the reward"
        )
    if FINAL in terms:
        raise ValueError(f"a term is called {FINAL!r}, and that is the name of the final reward; give it another one")
    return dict(terms)


def _sampled(
    model: World, posterior: Posterior, functions: Mapping[str, Term], number: int, seed: int
) -> tuple[Tensor | None, Tensor, tuple[Tensor | None, Tensor | None]]:
    """(believed [T, N] or None, real [T, N], their standard errors [N])."""
    policy = posterior.policy()
    number = min(number, getattr(policy, "affordable_rollouts", number))
    run = model.rollout(policy, number, seeded(seed))
    paid = _paid(model, functions, run.states, run.actions, run.alive[:, :-1])
    real, error = paid.mean(0), _error(paid, number)
    if isinstance(posterior, PlanPosterior) or (isinstance(posterior, LocalPosterior) and posterior.holds_dynamics):
        return real, real, (error, error)  # q is the policy in the true world
    try:
        states, actions = posterior.sample(number, seed=seed)
    except NotKnown:
        return None, real, (None, error)
    states, actions = states.detach(), actions.detach()
    if states.shape[1] == model.steps:  # a program that draws no s_{T+1}
        return None, real, (None, error)
    paid = _paid(model, functions, states, actions, _alive(model, states))
    worth = float(posterior.details.get("effective_sample_size", number))
    return paid.mean(0), real, (_error(paid, max(1.0, min(number, worth))), error)


def _paid(model: World, functions: Mapping[str, Term], states: Tensor, actions: Tensor, alive: Tensor) -> Tensor:
    """[P, T, N], what trajectories are paid by each term; the final reward, if there is one, as the last.

    Args:
        model: for the final reward, and to hold the terms against its whole reward.
        functions: the terms.
        states: [P, T + 1, n].
        actions: [P, T, m].
        alive: bool [P, T], whether a chain still goes on at a step.

    Raises:
        ValueError: if the terms do not add up to the reward of a step, or one returns another shape.
    """
    inside = torch.where(torch.isfinite(states), states, torch.zeros_like(states))
    steps = []
    for t in range(model.steps):
        s, a = inside[:, t], actions[:, t]
        values = [_shaped(name, term(s, a, t), s) for name, term in functions.items()]
        whole = model.step_reward(s, a, t)
        there = alive[:, t] & torch.isfinite(whole)
        apart = (sum(values, torch.zeros_like(whole)) - whole).abs() > APART * sum(
            part.abs() for part in [*values, whole]
        )
        if bool((apart & there).any()):
            k = int((apart & there).nonzero()[0])
            raise ValueError(
                f"the terms {', '.join(functions)} add up to {float(sum(part[k] for part in values)):.6g} at time "
                f"index {t}, and the reward is {float(whole[k]):.6g}; give functions (s, a, t) that add up to it"
            )
        steps.append(torch.stack([torch.where(alive[:, t], part, torch.zeros_like(part)) for part in values], -1))
    paid = torch.stack(steps, 1)
    final = model.last_reward(inside[:, -1])
    if final is None:
        return paid
    last = torch.zeros_like(paid[..., :1])
    last[:, -1, 0] = torch.where(alive[:, -1], final, torch.zeros_like(final))
    return torch.cat([paid, last], -1)


def _shaped(name: str, values: Any, states: Tensor) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != states.shape[:-1]:
        got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"the term {name!r} returned {got} for states {list(states.shape)}; expected [{len(states)}]")
    return values


def _alive(model: World, states: Tensor) -> Tensor:
    """Bool [P, T], whether a chain goes on at a step, from its states [P, T + 1, n], inf once a discount ended it."""
    before = states[:, :-1]
    gone = torch.isinf(before).all(-1)
    ends = model.has_ended(torch.where(gone[..., None], torch.zeros_like(before), before))
    return ~gone if ends is None else ~(gone | ends)


def _error(paid: Tensor, worth: float) -> Tensor:
    """[N], standard errors of the means of sums over steps of [P, T, N], of as many trajectories as they are worth."""
    spread = paid.sum(1).std(0)
    return torch.where(torch.isfinite(spread), spread, torch.full_like(spread, math.inf)) / math.sqrt(worth)


def _less(left: float | None, right: float) -> float | None:
    return None if left is None or left == right == -math.inf else left - right
