"""How backend 'restricted' answers a continuous model: what it accepts, by which gradient, and what that takes."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from cai.inference.core.learner import Learner
from cai.inference.core.memory import Need, check_memory, particles_need
from cai.inference.gaussian.solve import gaussian_need
from cai.inference.restricted.classes import ModulePolicy, PolicyClass
from cai.inference.restricted.continuous.answers import fitted_answer
from cai.inference.restricted.continuous.box import box_of_prior, score_of_prior
from cai.inference.restricted.continuous.classes import ActionClass, LinearGaussianPolicy, make_guide
from cai.inference.restricted.continuous.guides import Guide, Sizes
from cai.inference.restricted.continuous.linear_ascent import LinearAscent
from cai.inference.restricted.continuous.one_step import ACTIONS, known_values, one_step_gradient
from cai.inference.restricted.continuous.rollouts import (
    Critic,
    GuideParameters,
    WorldProblem,
    draw_world,
    world_gradient,
)
from cai.inference.restricted.score_function import SampledLearner, SamplingOptions
from cai.models.common.random_draws import OwnDraws
from cai.models.continuous.linear_gaussian import LinearGaussianModel
from cai.models.continuous.world import World

__all__ = ["check_world", "world_learner", "world_need"]

RATE = 0.01  # of Adam
TRIED = 32  # states on which a policy is tried before it is fitted
WINDOW, LONG_WINDOW = 50, 200  # steps over which fits are compared; more to values, where gains are steady and small
FIRST = 256  # trajectories by which states and returns are brought to size 1


def is_closed(backend: Any, policy: PolicyClass, model: World) -> bool:
    """Whether the bound is to be known by moments."""
    fits = isinstance(policy, LinearGaussianPolicy) and isinstance(model, LinearGaussianModel)
    return backend.gradient == "closed" or (
        backend.gradient == "auto" and fits and backend.start is None and backend.values is None
    )


def check_world(backend: Any, policy: PolicyClass, model: World) -> None:
    """Raises ValueError if the model cannot be answered over this class of policies, and says what can."""
    name, kind = type(policy).__name__, type(model).__name__
    if not isinstance(policy, (ActionClass, ModulePolicy)):
        raise ValueError(
            f"{name} is about numbered states and actions, and those of a {kind} are continuous; use "
            "LinearGaussianPolicy(), TanhGaussianPolicy(), MixturePolicy(), FlowPolicy() or a module that returns a "
            "distribution"
        )
    if model.horizon == math.inf:
        raise ValueError(
            f"backend {backend.name!r} answers finite horizons of a {kind}: give horizon=N; over an infinite one the "
            "best policy is linear-Gaussian and stationary, which is the answer of 'variational'"
        )
    if backend.gradient == "enumerated":
        raise ValueError(
            f"gradient='enumerated' is over numbered states, and those of a {kind} are continuous; leave gradient out, "
            "or give 'closed', 'pathwise' or 'sampled'"
        )
    if backend.restarts:
        raise ValueError(f"restarts is {backend.restarts}; on continuous models compare fits of several seeds instead")
    if backend.values is not None:
        _check_values(backend, model)
    if is_closed(backend, policy, model):
        if not isinstance(policy, LinearGaussianPolicy) or not isinstance(model, LinearGaussianModel):
            raise ValueError(
                f"gradient='closed' is by the moments of a LinearGaussianPolicy on a LinearGaussianModel, and this is "
                f"{name} on a {kind}; leave gradient out, or give 'pathwise' or 'sampled'"
            )
        if backend.start is not None:
            raise ValueError(
                "start is for fits to trajectories: give gradient='pathwise' or 'sampled', or leave it out"
            )
        return
    _check_sampled(backend, policy, model)


def _check_sampled(backend: Any, policy: PolicyClass, model: World) -> None:
    if model.batch_shape:
        raise ValueError(
            f"the model is a batch of shape {list(model.batch_shape)}, and trajectories are those of one; ask about "
            "its members, model.member(0), or give LinearGaussianPolicy() with the closed bound"
        )
    if isinstance(policy, ModulePolicy) and policy.features is not None:
        raise ValueError("features are of numbered states; a module on a continuous model is called with the states")
    _check_start(backend.start, model)
    check_memory(backend, model)  # before parameters are made, of which there may be some for every step
    guide = _new_guide(policy, model, 0)
    states = model.reset(TRIED, torch.Generator().manual_seed(0))
    with OwnDraws(0), torch.no_grad():
        law = guide.law(states, 0)
        action = law.sample()
        inside = None if model.is_flat else score_of_prior(model, states, action, 0)
    if not bool(action.isfinite().all()):
        raise ValueError(f"{type(policy).__name__} drew actions that are not finite; look at its parameters")
    if inside is not None and bool(torch.isneginf(inside).any()):
        raise ValueError(
            f"{type(policy).__name__} takes actions at which the action prior has density 0, so every bound is -inf; "
            "use a policy on the prior's box, e.g. TanhGaussianPolicy(), or another prior"
        )
    if backend.gradient == "pathwise" and (why := _no_path(law, model)):
        raise ValueError(f"gradient='pathwise' goes along trajectories, and {why}; give 'sampled', or leave it out")


def _check_values(backend: Any, model: World) -> None:
    """Refuses what does not go with values that are known, and values of another shape."""
    if backend.start is None:
        raise ValueError(
            "values are fitted to in single steps, from states that start= gives: states [K, n] spread over where the "
            "policy is to be good, or a distribution of them"
        )
    if backend.gradient not in ("auto", "sampled") or backend.baseline == "value":
        what = f"gradient={backend.gradient!r}" if backend.baseline != "value" else "baseline='value'"
        raise ValueError(f"{what} is for fits to trajectories; with values= leave it out")
    states = model.reset(TRIED, torch.Generator().manual_seed(0))
    for t in sorted({1, model.steps - 1} - {0, model.steps}):
        known_values(backend.values, states, t)


def _no_path(law: Any, model: World) -> str:
    """Why no gradient passes along trajectories; empty if it does."""
    states = model.reset(2, torch.Generator().manual_seed(0))
    if not law.has_rsample:
        return "draws of this policy pass no gradients"
    if model.has_ended(states) is not None:
        return "at a terminal state rewards jump"
    action = torch.zeros(2, model.action_dim, dtype=torch.float64)
    if model.transition(states, action, 0).has_rsample:
        return ""
    return "draws of the next state pass no gradients"


def _check_start(start: Any, model: World) -> None:
    if start is None:
        return
    shape = list(start.shape[1:] if isinstance(start, Tensor) else start.event_shape)
    if shape != [model.state_dim]:
        raise ValueError(f"start holds states of shape {shape}; the model's are [{model.state_dim}]")


def world_need(backend: Any, policy: PolicyClass, model: Any) -> Need:
    """About what the fit will take."""
    if is_closed(backend, policy, model):
        return gaussian_need(model)
    hidden = sum(getattr(policy, "hidden_sizes", ())) + model.state_dim + model.action_dim
    drawn = backend.num_samples * (1 if backend.values is None else ACTIONS)
    d = model.state_dim + model.action_dim
    learned, tried = drawn * 8 * hidden, backend.num_eval_samples * 4 * d
    name, count = ("num_samples", drawn) if learned > tried else ("num_eval_samples", backend.num_eval_samples)
    return particles_need(
        count, max(learned, tried) // count * model.steps, 0, f"lower {name}, or give a shorter horizon"
    )


def world_learner(backend: Any, policy: PolicyClass, model: Any) -> Learner[Any]:
    """The learner that fits the class to a continuous model."""
    if is_closed(backend, policy, model):
        assert isinstance(policy, LinearGaussianPolicy)
        return LinearAscent(backend, model, policy.stationary)
    rate = RATE if backend.learning_rate is None else backend.learning_rate
    options = SamplingOptions(
        backend.max_iterations,
        rate,
        backend.num_samples,
        backend.num_eval_samples,
        backend.baseline,
        WINDOW if backend.values is None else LONG_WINDOW,
    )
    return SampledLearner(
        functools.partial(_begin, backend, policy),
        options,
        functools.partial(fitted_answer, backend, policy),
        world_gradient if backend.values is None else one_step_gradient,
        draw_world,
    )


def _begin(backend: Any, policy: PolicyClass, model: Any, seed: int) -> WorldProblem:
    """New parameters, and the sizes of states and returns, by trajectories of them."""
    guide = _new_guide(policy, model, seed)
    with torch.no_grad():
        law = guide.law(model.reset(1, torch.Generator().manual_seed(0)), 0)
    pathwise = backend.gradient != "sampled" and backend.values is None and not _no_path(law, model)
    with OwnDraws(seed):
        critic = Critic(guide) if backend.baseline == "value" and not pathwise else None
    problem = WorldProblem(model, GuideParameters(guide, critic), pathwise, backend.start, backend.values)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        draws = draw_world(_no_gradients(problem), FIRST, generator, trains=True)
        if draws.diverged is None:
            seen = draws.states[:-1].flatten(0, 1)
            guide.shift.copy_(seen.mean(0))
            guide.scale.copy_(_size(seen.std(0)))
            if critic is not None:
                to_go = (draws.rewards - draws.ratios).flip(0).cumsum(0).flip(0)
                critic.middle.copy_(to_go.mean())
                critic.spread.copy_(_size(to_go.std()))
    return problem


def _no_gradients(problem: WorldProblem) -> WorldProblem:
    return WorldProblem(problem.model, problem.policy, False, problem.starts)


def _size(deviation: Tensor) -> Tensor:
    """A standard deviation, 1 where nothing varies."""
    return torch.where((deviation > 1e-12) & deviation.isfinite(), deviation, torch.ones_like(deviation))


def _new_guide(policy: PolicyClass, model: World, seed: int) -> Guide:
    """New parameters in the box that the policy or the prior sets, else near the prior at the start."""
    low, high = getattr(policy, "low", None), getattr(policy, "high", None)
    bounds: tuple[Tensor, Tensor] | None = None
    m = model.action_dim
    if low is not None and high is not None:
        if not {len(low), len(high)} <= {1, m}:
            raise ValueError(f"low and high have {len(low)} and {len(high)} numbers; the model's actions have {m}")
        bounds = low.expand(m), high.expand(m)
    elif isinstance(policy, ActionClass) and not isinstance(policy, LinearGaussianPolicy):
        bounds = box_of_prior(model)
        if bounds is None and policy.needs_box:
            raise ValueError(
                f"{type(policy).__name__} squashes actions into a box, and the action prior has none; give low= and "
                "high=, or use LinearGaussianPolicy(), MixturePolicy() or FlowPolicy()"
            )
    with OwnDraws(seed):
        guide = make_guide(policy, Sizes(model.state_dim, m, model.steps, bounds is not None))
    if bounds is not None:
        guide.low.copy_(bounds[0])
        guide.high.copy_(bounds[1])
    elif not model.is_flat:
        with torch.no_grad(), OwnDraws(0):
            drawn = model.prior(model.reset(FIRST, torch.Generator().manual_seed(0)), 0).sample()
            guide.begin(drawn.mean(0), _size(drawn.std(0)))
    return guide
