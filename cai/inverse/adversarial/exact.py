"""AIRL and GAIL on a `TrajectoryModel`: checks, rounds until they settle, and what is reported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inverse.adversarial.estimate import AdversarialEstimate, TabulatedReward
from cai.inverse.adversarial.tables import Round, TableGame, js_divergence, settle
from cai.inverse.estimation.status import FitStatus
from cai.inverse.tabular.data import read_demonstrations
from cai.models.trajectory.model import TrajectoryModel
from cai.policies.policy import Policy

__all__ = ["exact_estimate"]

SHOWN = 5  # steps that a warning names


def exact_estimate(
    method: str, model: TrajectoryModel, demonstrations: Any, state_only: bool, rounds: int
) -> AdversarialEstimate:
    """The fixed point of policy and discriminator; see `cai.inverse.airl`.

    Raises:
        TypeError, ValueError: if demonstrations do not fit the model or were cut; of AIRL if dynamics are not certain.
    """
    uncertain = model.mdp.available & model.nonterminal[:, None] & (model.mdp.probabilities.amax(-1) < 1 - 1e-12)
    if method == "airl" and bool(uncertain.any()):
        state, action = uncertain.nonzero()[0].tolist()
        raise ValueError(
            f"action {model.mdp.action_name(action)} in state {model.mdp.state_name(state)} leads to several states, "
            "and the reward that AIRL finds under noise is wrong; use cai.inverse.fit(model, demonstrations), or gail"
        )
    game = TableGame(model, read_demonstrations(model, demonstrations, "moments"), state_only)
    first = game.answer(torch.zeros_like(game.shown))
    lacking = _never_done(game, first, method)
    if lacking:
        nothing = torch.full_like(game.shown, torch.nan)
        named = ", ".join(lacking[:SHOWN]) + (f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else "")
        told = (f"no demonstration shows {named}, though they are within reach: their reward has no finite estimate",)
        reward = TabulatedReward(nothing[0], nothing[:, :, 0], nothing)
        policy = _policy(model, first.log_policy.exp(), method)
        return AdversarialEstimate(method, policy, reward, torch.nan, torch.nan, FitStatus.SEPARATED, told, 0)
    place, parameters, number, settled = settle(game, method, rounds)
    logits = torch.where(game.possible, place.f - place.log_policy, torch.zeros_like(place.f))
    g, h = (place.f, torch.zeros_like(place.f[:, :, 0])) if parameters is None else game.tables(parameters)
    if parameters is None and not model.is_finite:
        g = g[0]
    warnings: tuple[str, ...] = (
        () if settled else (f"policy and discriminator still moved after {number} rounds; raise rounds",)
    )
    return AdversarialEstimate(
        method,
        _policy(model, place.log_policy.exp(), method),
        TabulatedReward(g, h, place.f),
        _loss(game, place, logits),
        js_divergence(game.shown, place.visits),
        FitStatus.SUCCESS if settled else FitStatus.NOT_CONVERGED,
        warnings,
        number,
    )


def _loss(game: TableGame, place: Round, logits: Tensor) -> float:
    """-E_E[log D] - E_pi[log(1 - D)], nats."""
    found = 0.0
    for masses, sign in ((game.shown, 1.0), (place.visits, -1.0)):
        found -= float((masses * torch.nn.functional.logsigmoid(sign * logits)).sum() / masses.sum())
    return found


def _policy(model: TrajectoryModel, probs: Tensor, source: str) -> Policy:
    """pi, with the action prior where nothing is chosen."""
    rows = torch.where(probs.sum(-1, keepdim=True) > 0, probs, model.action_prior)
    mdp = model.mdp
    states, actions = (None if part is None else tuple(part) for part in (mdp.state_names, mdp.action_names))
    return Policy(rows, not model.is_finite, states, actions, source)


def _never_done(game: TableGame, first: Round, method: str) -> list[str]:
    """What is within reach and was never shown, by name: steps at each time for GAIL, else at any; states if g is."""
    mdp, axes = game.world.mdp, (0, 2) if game.state_only else (0,)
    if method == "gail":
        lacking = ((first.visits > 0) & (game.shown == 0)).nonzero().tolist()
        when = [f" at time index {t}" if game.finite else "" for t, _, _ in lacking]
        named = [(s, a) for _, s, a in lacking]
    else:
        lacking = ((first.visits.sum(axes) > 0) & (game.shown.sum(axes) == 0)).nonzero().tolist()
        named, when = [(row[0], row[1] if len(row) > 1 else None) for row in lacking], [""] * len(lacking)
    return [
        (f"action {mdp.action_name(a)} in state " if a is not None else "state ") + mdp.state_name(s) + at
        for (s, a), at in zip(named, when, strict=True)
    ]
