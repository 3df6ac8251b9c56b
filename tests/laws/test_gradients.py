"""Every gradient that an answer offers is that of its numbers, by differences, over combinations of features."""

import contextlib
import math

import torch
from campaigns import over_methods
from methods import ALL, SAMPLED

from cai.inference import MaxProduct, Status
from cai.inference.core.learner import Iterative
from cai.models import MDP, OutcomeReward, TableReward

EVERY = [7, 1, 5, *(seed for seed in range(100) if seed not in (7, 1, 5))]  # these catch held policies
H = 1e-3  # of differences of five points, whose error is of order H^4
LEAVES = ("rewards", "temperature", "prior", "start", "outcomes")
NUMBERS = ("log_evidence", "elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")
TABLES = ("values", "q_values", "action_probs", "action_prior", "initial", "state_marginals", "absorbed")


def rebuilt(model, moved):
    """The model with its numbers moved: rewards and temperature by addition, probabilities in their logarithms."""
    mdp, factor = model.mdp, OutcomeReward if isinstance(model.reward, OutcomeReward) else TableReward
    chances = (mdp.probabilities.log() + moved["outcomes"]).softmax(-1)
    parts = {
        "initial": (mdp.initial.log() + moved["start"]).softmax(-1),
        "available": mdp.available,
        "terminal": mdp.terminal,
    }
    mdp = MDP(chances, **parts) if mdp.next_states is None else MDP.from_successors(mdp.next_states, chances, **parts)
    rewards = model.reward.table + moved["rewards"]
    prior = (model.action_prior.log() + moved["prior"]).softmax(-1)
    return model.replace(
        mdp=mdp, reward=factor(rewards), temperature=model.temperature + moved["temperature"], action_prior=prior
    )


def directions(model, generator):
    """Where each leaf moves; rewards of terminal states and of -inf stay."""

    def draw(like):
        return torch.randn(like.shape, generator=generator, dtype=torch.float64)

    table = model.reward.table
    moves = draw(table)
    moves[model.mdp.terminal] = 0.0
    moves = torch.where(torch.isfinite(table), moves, 0.0)
    mdp = model.mdp
    return {
        "rewards": moves,
        "temperature": torch.tensor(0.5, dtype=torch.float64),
        "prior": draw(model.action_prior),
        "start": draw(mdp.initial),
        "outcomes": draw(mdp.probabilities),
    }


def looks(answer, paths):
    """What the answer says by name, tensors; what it does not know is left out."""
    found = {}
    for name in NUMBERS + TABLES:
        try:
            part = getattr(answer, name)
        except ValueError:
            continue
        if part is not None:
            found[name] = part
    if paths is not None:
        with contextlib.suppress(ValueError):
            found["log_prob"] = answer.log_prob(*paths)
        found |= {site: answer.marginal(site) for site in ("s_1", "a_1")}
    return found


def check(method, seed):
    model = method.problem(seed).model
    generator = torch.Generator().manual_seed(seed)
    ways = directions(model, generator)
    asked = [name for name in LEAVES if torch.rand((), generator=generator) < 0.6] or ["rewards"]
    zeros = {name: torch.zeros_like(way) for name, way in ways.items()}
    plain = method.backend.run(model, seed=0)
    if plain.status is not Status.SUCCESS:
        return
    paths = plain.sample(3, seed=seed)

    def at(length):
        moved = {name: length * ways[name] if name in asked else zeros[name] for name in LEAVES}
        return looks(method.backend.run(rebuilt(model, moved), seed=0), paths)

    leaves = {name: zeros[name].clone().requires_grad_(name in asked) for name in LEAVES}
    answer = method.backend.run(rebuilt(model, leaves), seed=0)
    if isinstance(method.backend, Iterative) and method.backend.learner(model) is not None:
        assert ("of elbo alone" if method.backend.name == "restricted" else "none") in answer.details["gradients"]
    offered = looks(answer, paths)
    offered = {name: part for name, part in offered.items() if part.requires_grad}
    if not offered:
        return
    further, near, back, behind = at(2 * H), at(H), at(-H), at(-2 * H)
    for name, part in offered.items():
        kept = torch.isfinite(part.detach())
        weights = torch.randn(part.shape, generator=generator, dtype=torch.float64)
        number = (part[kept] * weights[kept]).sum()
        slopes = torch.autograd.grad(
            number, [leaves[name] for name in asked], retain_graph=True, materialize_grads=True
        )
        got = sum(float((slope * ways[name]).sum()) for name, slope in zip(asked, slopes, strict=True))
        far, close = (further[name] - behind[name])[kept], (near[name] - back[name])[kept]
        want = float((weights[kept] * (8 * close - far)).sum()) / (12 * H)
        size = max(1.0, abs(want), float(part.detach()[kept].abs().sum()))
        allowed = (2e-6 + method.tolerance / H) * size
        if isinstance(method.backend, MaxProduct) and not math.isclose(got, want, abs_tol=allowed):
            # Where the best are several, the slope of any of them is right: all lie between those of both sides.
            middle = at(0.0)[name]
            rises = (4 * near[name] - 3 * middle - further[name]), (3 * middle - 4 * back[name] + behind[name])
            sides = [float((weights * part)[kept].sum()) / (2 * H) for part in rises]
            assert min(sides) - allowed <= got <= max(sides) + allowed, (seed, name, asked, got, sides)
            continue
        assert math.isclose(got, want, abs_tol=allowed), (seed, name, asked, got, want)


@over_methods(ALL + SAMPLED, EVERY, quick=6)
def test_gradients_are_those_of_differences_or_not_offered(method, seeds):
    for seed in seeds:
        check(method, seed)
