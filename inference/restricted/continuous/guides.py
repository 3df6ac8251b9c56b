"""The parameters of policies over continuous actions: matrices, networks and flows, as modules of torch."""

from __future__ import annotations

import inspect
import itertools
from typing import Any, NamedTuple

import torch
from pyro.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    TransformedDistribution,
)
from pyro.distributions.transforms import ConditionalSpline, ConditionalSplineAutoregressive
from pyro.nn import ConditionalAutoRegressiveNN, DenseNN
from torch import Tensor, nn

from cai.inference.core.squashed import Squashed
from cai.inference.core.status import NotKnown

__all__ = ["FlowGuide", "GaussianGuide", "Guide", "LinearGuide", "MixtureGuide", "ModuleGuide", "Network", "Sizes"]

SMALL = 0.01  # of the usual size, of the last layer's first weights: a policy begins almost alike in all states
WIDTHS = (-7.0, 3.0)  # of the logarithm of a standard deviation
TAIL = 4.0  # how far from 0 splines bend; beyond they are the identity
Times = Any  # a time index, or int64 [N], one for each state


class Sizes(NamedTuple):
    """n coordinates of a state, m of an action, T steps, and whether actions lie in a box."""

    states: int
    actions: int
    steps: int
    boxed: bool


class Guide(nn.Module):
    """A policy with parameters: for states [N, n] at a time, or at N times, a law of actions [N, m].

    Args:
        sizes: of the problem.

    Attributes:
        shift, scale: [n], by which states are brought to size 1.
        low, high: [m], the box; NaN without one.
    """

    shift: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    at_many_times = True  # whether N states may have N times

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        for name, size, value in (("shift", 0, 0.0), ("scale", 0, 1.0), ("low", 1, torch.nan), ("high", 1, torch.nan)):
            self.register_buffer(name, torch.full((sizes[size],), value, dtype=torch.float64))

    def base(self, states: Tensor, times: Times) -> Any:
        """The law of u, batch shape [N], event shape [m]."""
        raise NotImplementedError

    def law(self, states: Tensor, times: Times) -> Squashed:
        """The law of actions."""
        bounds = (self.low, self.high) if self.sizes.boxed else (None, None)
        return Squashed(self.base(states, times), *bounds)

    def centre(self, states: Tensor, times: Times) -> Tensor:
        """[N, m], what it does if it is not to draw.

        Raises:
            NotKnown: if no one action stands for the law.
        """
        law = self.law(states, times)
        return law.to_action(law.base.mean)

    def begin(self, mean: Tensor, deviation: Tensor) -> None:
        """Moves as near as it comes to actions of this mean [m] and standard deviation [m], where it has no box."""


class Network(nn.Module):
    """A perceptron with tanh units from states and times to numbers, which begin near 0.

    Args:
        sizes: of the problem.
        outputs: how many numbers.
        hidden: the widths of its layers.
        stationary: whether it does not see the time.
    """

    def __init__(self, sizes: Sizes, outputs: int, hidden: tuple[int, ...], stationary: bool) -> None:
        super().__init__()
        self.steps, self.stationary = sizes.steps, stationary
        widths = (sizes.states + (not stationary), *hidden)
        layers: list[nn.Module] = []
        for wide, following in itertools.pairwise(widths):
            layers += [nn.Linear(wide, following, dtype=torch.float64), nn.Tanh()]
        last = nn.Linear(widths[-1], outputs, dtype=torch.float64)
        with torch.no_grad():
            last.weight.mul_(SMALL)
            last.bias.zero_()
        self.layers, self.last = nn.Sequential(*layers), last

    def inputs(self, states: Tensor, times: Times) -> Tensor:
        """[N, n + 1], states and t / T; [N, n] for a stationary one."""
        if self.stationary:
            return states
        share = torch.as_tensor(times, dtype=states.dtype) / self.steps
        return torch.cat([states, share.reshape(-1, 1).expand(len(states), 1)], -1)

    def forward(self, states: Tensor, times: Times) -> Tensor:
        """[N, outputs], of states of size 1 [N, n]."""
        found: Tensor = self.last(self.layers(self.inputs(states, times)))
        return found


class LinearGuide(Guide):
    """N(K_t s + k_t, R_t R_t'), R_t lower triangular with the exponential of its diagonal."""

    def __init__(self, sizes: Sizes, stationary: bool) -> None:
        super().__init__(sizes)
        steps, n, m = 1 if stationary else sizes.steps, sizes.states, sizes.actions
        self.gain = nn.Parameter(torch.zeros(steps, m, n, dtype=torch.float64))
        self.offset = nn.Parameter(torch.zeros(steps, m, dtype=torch.float64))
        self.root = nn.Parameter(torch.zeros(steps, m, m, dtype=torch.float64))

    def roots(self) -> Tensor:
        """[T or 1, m, m], R."""
        return self.root.tril(-1) + torch.diag_embed(self.root.diagonal(dim1=-2, dim2=-1).exp())

    def base(self, states: Tensor, times: Times) -> Any:
        times = times if len(self.gain) > 1 else 0
        gain, offset, roots = (part[times] for part in (self.gain, self.offset, self.roots()))
        mean = (gain @ states[..., None])[..., 0] + offset
        return MultivariateNormal(mean, scale_tril=roots, validate_args=False)

    @torch.no_grad()
    def begin(self, mean: Tensor, deviation: Tensor) -> None:
        self.offset.copy_(mean.expand_as(self.offset))
        self.root.copy_(torch.diag(deviation.log()).expand_as(self.root))


class GaussianGuide(Guide):
    """Independent Gaussians of u whose means and deviations a network computes."""

    def __init__(self, sizes: Sizes, hidden: tuple[int, ...], stationary: bool) -> None:
        super().__init__(sizes)
        self.network = Network(sizes, 2 * sizes.actions, hidden, stationary)

    def base(self, states: Tensor, times: Times) -> Any:
        mean, width = self.network((states - self.shift) / self.scale, times).chunk(2, -1)
        return Independent(Normal(mean, width.clamp(*WIDTHS).exp(), validate_args=False), 1, validate_args=False)


class MixtureGuide(Guide):
    """K Gaussians of u with weights; means, deviations and weights by a network."""

    def __init__(self, sizes: Sizes, hidden: tuple[int, ...], stationary: bool, components: int) -> None:
        super().__init__(sizes)
        self.components = components
        self.network = Network(sizes, components * (2 * sizes.actions + 1), hidden, stationary)
        with torch.no_grad():  # apart from each other, or all would stay alike
            spread = torch.randn(components, sizes.actions, dtype=torch.float64)
            self.network.last.bias[: spread.numel()] = spread.flatten()

    def parts(self, states: Tensor, times: Times) -> tuple[Tensor, Tensor, Tensor]:
        """Means [N, K, m], deviations [N, K, m] and logits [N, K] of u."""
        shape = (len(states), self.components, self.sizes.actions)
        size = shape[1] * shape[2]
        found = self.network((states - self.shift) / self.scale, times)
        mean, width, logits = found.split([size, size, self.components], -1)
        return mean.reshape(shape), width.reshape(shape).clamp(*WIDTHS).exp(), logits

    def base(self, states: Tensor, times: Times) -> Any:
        mean, deviation, logits = self.parts(states, times)
        each = Independent(Normal(mean, deviation, validate_args=False), 1, validate_args=False)
        return MixtureSameFamily(Categorical(logits=logits, validate_args=False), each, validate_args=False)

    def centre(self, states: Tensor, times: Times) -> Tensor:
        mean, _, logits = self.parts(states, times)
        heaviest = logits.argmax(-1)[:, None, None].expand(-1, 1, mean.shape[-1])
        return self.law(states, times).to_action(mean.gather(1, heaviest)[:, 0])


class FlowGuide(Guide):
    """A normalising flow of u: standard normal numbers through transforms that a network bends by the state."""

    def __init__(self, sizes: Sizes, hidden: tuple[int, ...], stationary: bool, layers: int, bins: int) -> None:
        super().__init__(sizes)
        m, context = sizes.actions, hidden[-1]
        self.network = Network(sizes, context, hidden[:-1], stationary)
        with torch.no_grad():
            self.network.last.weight.div_(SMALL)
        self.bend = nn.ModuleList()
        counts, width = [bins, bins, bins - 1, bins], [max(2 * m, context)]
        for layer in range(layers):
            made: Any
            if m == 1:
                made = ConditionalSpline(DenseNN(context, width, counts, nonlinearity=nn.Tanh()), m, bins, TAIL)
            else:
                order = torch.arange(m) if layer % 2 == 0 else torch.arange(m).flip(0)
                options = {"param_dims": counts, "permutation": order, "nonlinearity": nn.Tanh()}
                hyper = ConditionalAutoRegressiveNN(m, context, width, **options)
                made = ConditionalSplineAutoregressive(m, hyper, count_bins=bins, bound=TAIL)
            self.bend.append(made.double())

    def base(self, states: Tensor, times: Times) -> Any:
        context = self.network((states - self.shift) / self.scale, times).tanh()
        zero = torch.zeros(len(states), self.sizes.actions, dtype=torch.float64)
        noise = Independent(Normal(zero, torch.ones_like(zero), validate_args=False), 1, validate_args=False)
        transforms: Any = self.bend
        return TransformedDistribution(noise, [part.condition(context) for part in transforms], validate_args=False)

    def centre(self, states: Tensor, times: Times) -> Tensor:
        raise NotKnown("one action to do for sure", "a flow", "draw from it: deterministic=False", "it has many modes")


class ModuleGuide(Guide):
    """A user's module, called with states [N, n] and a time index, or with states alone.

    Args:
        sizes: of the problem.
        module: a copy of the user's.
    """

    at_many_times = False

    def __init__(self, sizes: Sizes, module: nn.Module) -> None:
        super().__init__(sizes._replace(boxed=False))
        self.module = module.double().eval()
        self.takes_time = _takes_two(module.forward)

    def base(self, states: Tensor, times: Times) -> Any:
        arguments = (states, times) if self.takes_time else (states,)
        try:
            found = self.module(*arguments)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise ValueError(
                f"the policy's module failed on states of shape {list(states.shape)}: {error}; it is called with "
                "states [N, n] and, if it takes two arguments, the time index, and returns a distribution of actions"
            ) from error
        wanted = [[len(states)], [self.sizes.actions]]
        shapes = [list(getattr(found, name, ("?",))) for name in ("batch_shape", "event_shape")]
        if not hasattr(found, "log_prob") or shapes != wanted:
            got = f"batch shape {shapes[0]} and event shape {shapes[1]}"
            got = got if hasattr(found, "log_prob") else f"a {type(found).__name__}"
            raise ValueError(
                f"the policy's module returned {got} for states {list(states.shape)}; expected a distribution of batch "
                f"shape {wanted[0]} and event shape {wanted[1]}, e.g. by Independent(..., 1)"
            )
        return found

    def centre(self, states: Tensor, times: Times) -> Tensor:
        try:
            found: Tensor = self.base(states, times).mean
        except (NotImplementedError, AttributeError):
            raise NotKnown("a mean action", "the policy's module", "draw from it: deterministic=False") from None
        return found


def _takes_two(function: Any) -> bool:
    """Whether a function takes two positional arguments."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    takes = [p for p in parameters if p.kind in kinds]
    return len(takes) > 1 or any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters)
