"""Control of a state that is seen through noise: the policy of fixed dynamics acts on the Kalman filter's estimate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cai.inference.core.lazy import lazy
from cai.inference.core.status import Status, Target
from cai.inference.core.storage import storable
from cai.inference.gaussian.chain import read_sensor
from cai.inference.gaussian.estimation import correction
from cai.inference.gaussian.moments import Account, Belief, Moments, account, entropies
from cai.inference.gaussian.posterior import GaussianPosterior
from cai.inference.gaussian.problem import GaussianPrior, GaussianProblem, at_steps, symmetric, times
from cai.inference.gaussian.solve import gaussian_posterior
from cai.inference.gaussian.spectrum import root_of
from cai.models.common.random_draws import seeded
from cai.models.continuous.linear_gaussian import LinearGaussianModel

__all__ = ["LQGPosterior", "lqg"]


class LQGPosterior(GaussianPosterior):
    """The answer of `lqg`: a policy on estimates, and what it is worth where the state is seen through noise.

    Its gain, offset and covariance are those of a policy on s_hat_t = E[s_t | y_1 .. y_t]: `policy()` acts on the means
    of `kalman_filter`. Marginals, returns and samples are those of the whole loop, filter included. Values and messages
    are those of fixed dynamics with the state in sight.

    Attributes:
        estimate_covariances: [..., T, n, n], of s_t given y_1 .. y_t.
        filter_gains: [..., T, n, d], by which s_hat_t moves from its prediction along y_t - C s.
        sensor: C [..., T, d, n].
        sensor_noise: V [..., T, d, d].
    """

    estimate_covariances: Tensor
    filter_gains: Tensor
    sensor: Tensor
    sensor_noise: Tensor
    kind = "LQG"
    policy_on_estimates = True

    @lazy
    def moments(self) -> Moments:
        """Means and covariances of states and actions in the loop."""
        return _loop(self.problem, self.belief, self.conduct, self.estimate_covariances)

    @lazy
    def account(self) -> Account:
        """What the loop earns and pays: its policy is held against the prior given the state, which it does not see."""
        paid = account(self.problem, None, self.belief, self.conduct, self.moments)
        if self.problem.prior is None:
            return paid
        alive = torch.tensor((1.0, *self.problem.discounts)[: self.steps], dtype=paid.luck.dtype).cumprod(0)
        surprise = (alive * _prior_cost(self.problem.prior, self.moments)).sum(-1)
        return paid._replace(policy_divergence=surprise - paid.policy_entropy)

    @torch.no_grad()
    def _draw(self, num_samples: int, seed: int, latents: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        generator, belief = seeded(seed), self.belief

        def noise(root: Tensor) -> Tensor:
            shape = (num_samples, *root.shape[:-1])
            return times(root, torch.randn(shape, dtype=root.dtype, generator=generator))

        roots = [root_of(part) for part in (belief.noise, self.conduct.covariance, self.sensor_noise)]
        state, predicted = belief.mean + noise(root_of(belief.covariance)), belief.mean
        states, actions = [state], []
        for t in range(self.steps):
            A, B, drift, _ = self.dynamics(t)
            W, spread, V = (root[..., t, :, :] for root in roots)
            surprise = times(self.sensor[..., t, :, :], state - predicted) + noise(V)
            estimate = predicted + times(self.filter_gains[..., t, :, :], surprise)
            action = times(self.gain(t), estimate) + self.offset(t) + noise(spread)
            state = times(A, state) + times(B, action) + drift + noise(W)
            predicted = times(A, estimate) + times(B, action) + drift
            states.append(state)
            actions.append(action)
        return torch.stack(states, 1), torch.stack(actions, 1), {}

    def _score(self, states: Any, actions: Any) -> Tensor:
        why = "the policy sees observations, which were summed out"
        raise self._unknown("densities of trajectories", "ask 'variational', whose policy sees the state", why)


storable("lqg-posterior", pack=LQGPosterior._stored, unpack=LQGPosterior._from_stored)(LQGPosterior)


def lqg(model: LinearGaussianModel, C: Any, *, observation_noise: Any) -> GaussianPosterior:
    """The best policy that sees y_t = C s_t + N(0, observation_noise), y_1 .. y_t, in place of the state.

    By the separation of estimation and control (Joseph and Tou 1961) it is a = K s_hat + k + N(0, Sigma) with the
    policy N(K s + k, Sigma) of fixed dynamics and the filter's estimate s_hat, and what is not seen costs

        elbo = elbo(state in sight) - 1 / (2 alpha) sum_t tr(K'Haa K S_{t|t}),

    S_{t|t} the covariance of s_t given y_1 .. y_t. Holds for fixed dynamics alone.

    Args:
        model: the linear-Gaussian model, of a finite horizon.
        C: [..., d, n], or [..., T, d, n].
        observation_noise: V [..., d, d], or [..., T, d, d]; positive definite.

    Returns:
        An answer with `elbo`, and `details["price"]`, what the noise of the sensor costs, nats. Its status is that of
        'variational' where that has no answer.

    Raises:
        TypeError, ValueError: if the model is no `LinearGaussianModel`, its horizon is infinite, or a matrix does not
            fit; names it.
    """
    if not isinstance(model, LinearGaussianModel):
        raise TypeError(f"lqg answers a LinearGaussianModel, got {type(model).__name__}")
    if not model.is_finite:
        raise ValueError("lqg answers finite horizons, and this model's is infinite; give horizon=N")
    seen = gaussian_posterior(model, 0.0, backend="lqg", target=Target.OTHER)
    sensor, V = read_sensor(C, observation_noise, None, model.state_dim, model.steps)
    if not seen.status.ok:
        return seen
    problem, messages = seen.problem, seen.messages
    assert messages is not None
    covariances, gains = _filter(problem, sensor, V)
    inner = messages.gain.mT @ messages.action_cost @ messages.gain
    alive = torch.tensor((1.0, *problem.discounts)[: problem.horizon], dtype=inner.dtype).cumprod(0)
    price = (alive * (inner * covariances).sum((-2, -1))).sum(-1) / (2 * problem.temperature)
    return LQGPosterior(
        backend="lqg",
        target=Target.OTHER,
        status=Status.SUCCESS,
        model=model,
        horizon=model.horizon,
        problem=problem,
        messages=messages,
        elbo=messages.start / problem.temperature - price,
        estimate_covariances=covariances,
        filter_gains=gains,
        sensor=sensor.expand(*sensor.shape[:-3], problem.horizon, *sensor.shape[-2:]),
        sensor_noise=V.expand(*V.shape[:-3], problem.horizon, *V.shape[-2:]),
        details={"price": price.detach() if price.dim() else float(price.detach())},
    )


def _filter(problem: GaussianProblem, sensor: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """S_{t|t} [..., T, n, n] and the filter's gains [..., T, n, d]; neither depends on what is seen."""
    horizon = problem.horizon
    A_t, noises = at_steps(problem.A, 2, horizon), at_steps(problem.noise, 2, horizon)
    sensors, spreads = at_steps(sensor, 2, horizon), at_steps(V, 2, horizon)
    covariance = problem.covariance
    found, gains = [], []
    for t in range(horizon):
        if t:
            covariance = symmetric(A_t[t - 1] @ covariance @ A_t[t - 1].mT) + noises[t - 1]
        gain, covariance, _ = correction(covariance, sensors[t], spreads[t])
        found.append(covariance)
        gains.append(gain)
    return torch.stack(torch.broadcast_tensors(*found), -3), torch.stack(torch.broadcast_tensors(*gains), -3)


def _loop(problem: GaussianProblem, belief: Belief, policy: GaussianPrior, covariances: Tensor) -> Moments:
    """Means and covariances where actions follow the estimate, which is uncorrelated with its error."""
    mean, covariance = belief.mean, belief.covariance
    means, spreads, chosen, action_spreads, crosses = [mean], [covariance], [], [], []
    for t in range(problem.horizon):
        K, k, spread = policy.gain[..., t, :, :], policy.offset[..., t, :], policy.covariance[..., t, :, :]
        A, B = belief.A[..., t, :, :], belief.B[..., t, :, :]
        cross = (covariance - covariances[..., t, :, :]) @ K.mT
        action_spread = symmetric(K @ cross) + spread
        action = times(K, mean) + k
        chosen.append(action)
        action_spreads.append(action_spread)
        crosses.append(cross)
        mean = times(A, mean) + times(B, action) + belief.offset[..., t, :]
        turn = A @ cross @ B.mT
        covariance = symmetric(A @ covariance @ A.mT + turn + turn.mT + B @ action_spread @ B.mT)
        covariance = covariance + belief.noise[..., t, :, :]
        means.append(mean)
        spreads.append(covariance)

    def stack(parts: list[Tensor], axis: int) -> Tensor:
        return torch.stack(torch.broadcast_tensors(*parts), axis)

    return Moments(
        state_means=stack(means, -2),
        state_covariances=stack(spreads, -3),
        action_means=stack(chosen, -2),
        action_covariances=stack(action_spreads, -3),
        cross=stack(crosses, -3),
    )


def _prior_cost(prior: GaussianPrior, moments: Moments) -> Tensor:
    """[..., T], E[-log p(a_t | s_t)] over states and actions of these moments."""
    gain, offset, covariance = prior
    apart = moments.action_means - times(gain, moments.state_means[..., :-1, :]) - offset
    across = gain @ moments.cross
    spread = moments.action_covariances - across - across.mT
    spread = (
        spread + gain @ moments.state_covariances[..., :-1, :, :] @ gain.mT + apart[..., None] * apart[..., None, :]
    )
    scaled = torch.linalg.solve(covariance, spread).diagonal(dim1=-2, dim2=-1).sum(-1)
    return entropies(covariance) + (scaled - offset.shape[-1]) / 2
