"""Forward filtering, backward sampling: exact trajectories of the posterior of a `TrajectoryModel`.

Forward messages are filtered once; then a trajectory is drawn from its end to its start,

    s_{T+1} ~ alpha_{T+1}(s),     (s_t, a_t, k_t) | s_{t+1} ~ alpha_t(s) p(a|s) p_k e^{rho_k} where k leads to s_{t+1},

with alpha_t(s) = p(s_t = s, O_{1:t-1}) (Carter and Kohn 1994; Levine 2018, section 2.3, for the messages). The
optimality of later steps depends on the past through s_{t+1} alone, so no backward message is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cai.inference.tabular.forward_messages import forward_messages
from cai.models.common.numerics import safe_log, safe_logsumexp
from cai.models.trajectory.model import TrajectoryModel
from cai.models.trajectory.simulate import inverse_cdf

__all__ = ["sample_backward"]


@torch.no_grad()
def sample_backward(model: TrajectoryModel, num_samples: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draws independent trajectories from p(s_{1:T+1}, a_{1:T} | O_{1:T} = 1).

    O(T S A K) time once and O(log(S A K)) for each step of each trajectory; tables are [S, A, K], never [S, A, S] for
    successor lists.

    Args:
        model: the trajectory model, of finite horizon.
        num_samples: N.
        seed: of the generator; the global random state is left alone.

    Returns:
        States int64 [N, T + 1], S being the absorbing state of a discount, and actions int64 [N, T], uniform once
        absorbed: as `Posterior.sample` returns them.

    Raises:
        ValueError: if the horizon is infinite, p(O) = 0, or num_samples < 1.
    """
    if not model.is_finite:
        raise ValueError("trajectories of an infinite horizon have no end; extract the policy and roll it out")
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; ask for at least 1")
    steps = _BackwardSteps(model)
    ends = torch.cat([steps.alive[-1], steps.fallen[-1:]])
    if not bool(torch.isfinite(ends).any()):
        raise ValueError("there is no posterior to sample: p(O) = 0; look at the rewards of -inf")
    generator = torch.Generator().manual_seed(seed)
    everywhere = torch.zeros(num_samples, dtype=torch.int64)
    state = _Segments(ends[None], torch.tensor([len(ends)])).draw(everywhere, generator)
    states, actions = [state], []
    for t in reversed(range(model.steps)):
        state, action = steps.before(t, state, generator)
        states.append(state)
        actions.append(action)
    return torch.stack(states[::-1], -1), torch.stack(actions[::-1], -1)


class _Segments:
    """Weights that lie in a row, segment after segment, ready to be drawn from within a segment.

    Args:
        scores: [M], log weights, in nats; any leading axes are flattened.
        sizes: int64 [G], how many of them belong to each segment.
    """

    def __init__(self, scores: Tensor, sizes: Tensor) -> None:
        scores = scores.reshape(-1)
        segment = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        largest = torch.full((len(sizes),), -torch.inf, dtype=torch.float64)
        largest = largest.scatter_reduce(0, segment, scores, "amax")
        shift = torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))
        self.cumulative = (scores - shift[segment]).exp().cumsum(0)  # so each segment adds 1 at least, or nothing
        ends = sizes.cumsum(0)
        padded = torch.cat([self.cumulative.new_zeros(1), self.cumulative])
        self.low, self.high = padded[ends - sizes], padded[ends]

    def draw(self, segment: Tensor, generator: torch.Generator) -> Tensor:
        """[N], positions in the row, one from each of the given segments [N]."""
        uniform = torch.rand(segment.shape, dtype=torch.float64, generator=generator)
        return inverse_cdf(self.cumulative, self.low[segment], self.high[segment], uniform)


class _BackwardSteps:
    """p(s_t, a_t | s_{t+1}, O_{1:t}), its outcomes sorted by next state once.

    Attributes:
        alive: [T + 1, S], log p(s_t, O_{1:t-1}), nats.
        fallen: [T + 1], the same of the discount's absorbing state.
    """

    def __init__(self, model: TrajectoryModel) -> None:
        self.model = model
        mdp = model.mdp
        self.shape = mdp.probabilities.shape
        self.log_prior = safe_log(mdp.probabilities) + model.log_action_prior[..., None]
        self.stays = safe_log(model.survival)[:, None, None]
        self.falls = safe_log(1 - model.survival)[:, None, None]
        following = mdp.successors().expand(self.shape).reshape(-1)
        self.order = following.argsort(stable=True)
        self.sizes = following.bincount(minlength=mdp.num_states)
        self.alive = forward_messages(model)
        lost = [torch.full((), -torch.inf, dtype=torch.float64)]
        for t in range(model.steps):
            falling = safe_logsumexp((self._scores(t) + self.falls).reshape(-1)) if model.discount < 1 else lost[0]
            lost.append(torch.logaddexp(lost[-1], falling))
        self.fallen = torch.stack(lost)

    def _scores(self, t: int) -> Tensor:
        """[S, A, K], log alpha_t(s) p(a|s) p_k e^{rho_k}."""
        return self.log_prior + self.model.log_potential(t) + self.alive[t][:, None, None]

    def before(self, t: int, following: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(s_t [N], a_t [N]) given s_{t+1} [N]."""
        num_states, num_actions, num_outcomes = self.shape
        scores = self._scores(t)
        place = torch.zeros_like(following)
        inside = following < num_states
        if bool(inside.any()):
            segments = _Segments((scores + self.stays).reshape(-1)[self.order], self.sizes)
            place[inside] = self.order[segments.draw(following[inside], generator)]
        absorbed = torch.zeros_like(inside)
        if not bool(inside.all()):
            falling = torch.cat([(scores + self.falls).reshape(-1), self.fallen[t : t + 1]])
            segments = _Segments(falling, torch.tensor([len(falling)]))
            place[~inside] = segments.draw(torch.zeros_like(following[~inside]), generator)
            absorbed = ~inside & (place == len(falling) - 1)
        state = torch.where(absorbed, num_states, place // (num_actions * num_outcomes))
        action = (place // num_outcomes) % num_actions
        idle = torch.randint(num_actions, action.shape, generator=generator)
        return state, torch.where(absorbed, idle, action)
