"""The continuous problems of the zoo: their numbers, written out once more in NumPy, files, and what they cost."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.linalg import expm
from scipy.special import log1p

import cai
from cai.models import (
    Flat,
    LinearGaussianModel,
    LinearNormal,
    available_models,
    build_model,
    cart_pole,
    double_integrator,
    dubins,
    lqg,
    lqg_observations,
    multi_goal,
    pendulum,
)

NAMES = [name for name, entry in available_models().items() if entry.continuous]


def run(model, controls):
    """States [T + 1, n] and the return, in the model's own simulator."""
    states, total = [model.reset(1)], 0.0
    for t, action in enumerate(controls):
        moved, reward, _ = model.step(states[-1], torch.as_tensor(action, dtype=torch.float64).reshape(1, -1), t)
        states.append(moved)
        total += float(reward)
    return torch.cat(states).numpy(), total


@pytest.mark.parametrize("name", NAMES)
def test_every_entry_takes_its_options(name):
    model = build_model(name)
    assert model.name == name
    assert model.is_finite
    changed = build_model(name, horizon=2, temperature=2.5, discount=0.9)
    assert (changed.horizon, changed.temperature, changed.discount) == (2, 2.5, 0.9)
    proper = build_model(name, action_prior=LinearNormal(L=torch.eye(model.action_dim)))
    assert not proper.is_flat


@pytest.mark.parametrize("name", NAMES)
def test_copies_pickles_and_files_are_the_same_world(name, tmp_path):
    model = build_model(name, horizon=3)
    model.save(tmp_path / "world.cai")
    controls = 0.3 * np.ones((3, model.action_dim))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), cai.load(tmp_path / "world.cai")):
        assert repr(other) == repr(model)
        torch.manual_seed(0)
        want = run(model, controls)
        torch.manual_seed(0)
        found = run(other, controls)
        assert np.array_equal(want[0], found[0])
        assert want[1] == found[1]


def test_the_double_integrator():
    model, h = double_integrator(), 0.2
    joint = expm(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]) * h)
    assert model.A.numpy() == pytest.approx(joint[:2, :2], abs=1e-15)
    assert model.B.numpy() == pytest.approx(joint[:2, 2:], abs=1e-15)
    times = np.linspace(0, h, 20001)
    kernel = np.stack([times, np.ones_like(times)])
    assert model.noise.numpy() == pytest.approx(0.1 * trapezoid(kernel[:, None] * kernel, times), abs=1e-9)
    assert isinstance(model.action_prior, LinearNormal)
    assert not double_integrator(noise=0.0).noise.any()
    with pytest.raises(ValueError, match="intensity"):
        double_integrator(noise=-1.0)
    assert double_integrator(horizon=math.inf, discount=0.9).steps == 1


def test_the_plant_of_doyle():
    model, h = lqg(), 0.1
    joint = expm(np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]) * h)
    assert model.A.numpy() == pytest.approx(joint[:2, :2], abs=1e-14)
    assert model.B.numpy() == pytest.approx(joint[:2, 2:], abs=1e-14)
    assert np.linalg.matrix_rank(model.noise.numpy()) == 1
    assert model.is_flat
    seen = lqg_observations()
    assert seen.C.tolist() == [[1.0, 0.0]]
    assert seen.noise.tolist() == [[10.0]]
    with pytest.raises(ValueError, match="sees the state itself"):
        lqg_observations(0.0)


@pytest.mark.parametrize("build", [double_integrator, lqg])
def test_the_dial_is_finite_at_eta_minus_a_twentieth(build):
    """The soft Riccati recursion with theta = -0.05, written out."""
    model, theta = build(), -0.05
    A, B, W = (model.matrices(0)[i].numpy() for i in (0, 1, 3))
    Q, R = model.reward.Q.numpy(), model.reward.R.numpy()
    R = R if model.is_flat else R + np.linalg.inv(model.action_prior.L.numpy())
    P = model.final[0].numpy()
    for _ in range(model.horizon):
        assert np.linalg.eigvals(np.eye(2) + theta * W @ P).real.min() > 0
        ahead = P @ np.linalg.inv(np.eye(2) + theta * W @ P)
        P = Q + A.T @ ahead @ A - A.T @ ahead @ B @ np.linalg.inv(R + B.T @ ahead @ B) @ B.T @ ahead @ A
        P = (P + P.T) / 2
    assert np.linalg.eigvals(np.eye(2) + theta * model.start.covariance.numpy() @ P).real.min() > 0


def test_the_pendulum():
    controls = np.random.default_rng(0).normal(size=100) * 4
    states, total = run(pendulum(), controls)
    angle, speed, cost = math.pi, 0.0, 0.0
    for a in controls:
        cost += 0.05 * (5 * (1 - math.cos(angle)) + 0.05 * speed**2 + 0.05 * a**2)
        speed += 0.05 * (9.81 * math.sin(angle) + 5 * math.tanh(a / 5) - 0.1 * speed)
        angle += 0.05 * speed
    cost += 50 * (1 - math.cos(angle)) + 2.5 * speed**2
    assert states[-1] == pytest.approx([angle, speed], abs=1e-9)
    assert -total == pytest.approx(cost, abs=1e-9)
    assert run(pendulum(), np.zeros(100))[1] == pytest.approx(-150, abs=1e-9)


def test_the_cart_pole_by_the_equations_of_lagrange():
    """The accelerations solve the two equations of motion of a cart and a uniform pole."""
    model = cart_pole(horizon=1)
    rng = np.random.default_rng(1)
    for _ in range(5):
        x, angle, v, w, a = rng.normal(size=5) * [1, 2, 2, 3, 8]
        state = torch.tensor([[x, angle, v, w]], dtype=torch.float64)
        moved, reward, _ = model.step(state, torch.tensor([[a]], dtype=torch.float64), 0)
        _, _, v2, w2 = moved[0].tolist()
        acceleration, turning = (v2 - v) / 0.05, (w2 - w) / 0.05
        force = 10 * math.tanh(a / 10)
        m, total, half = 0.1, 1.1, 0.5
        cart = total * acceleration + m * half * (turning * math.cos(angle) - w**2 * math.sin(angle)) - force
        pole = 4 / 3 * half * turning + acceleration * math.cos(angle) - 9.81 * math.sin(angle)
        assert cart == pytest.approx(0, abs=1e-9)
        assert pole == pytest.approx(0, abs=1e-9)
        assert moved[0, 0] == pytest.approx(x + 0.05 * v2)
        assert moved[0, 1] == pytest.approx(angle + 0.05 * w2)
        step = 0.05 * (0.5 * x**2 + 5 * (1 - math.cos(angle)) + 0.05 * v**2 + 0.05 * w**2 + 0.01 * a**2)
        x2, angle2 = moved[0, :2].tolist()
        end = 10 * x2**2 + 50 * (1 - math.cos(angle2)) + v2**2 + w2**2
        assert -float(reward) == pytest.approx(step + end, abs=1e-9)


def test_the_car_of_dubins():
    controls = np.random.default_rng(2).normal(size=70)
    states, total = run(dubins(), controls)
    x = y = heading = cost = 0.0

    def discs():
        found = 0.0
        for cx, cy, radius in ((2, 0.3, 0.8), (3.6, -0.7, 0.7)):
            z = (radius + 0.1 - math.hypot(x - cx, y - cy)) / 0.05
            found += max(z, 0) + log1p(math.exp(-abs(z)))
        return found

    for a in controls:
        cost += discs() + 0.05 * a**2
        heading += 0.1 * 1.5 * math.tanh(a / 1.5)
        x, y = x + 0.1 * math.cos(heading), y + 0.1 * math.sin(heading)
    cost += 10 * ((x - 5) ** 2 + y**2) + discs()
    assert states[-1] == pytest.approx([x, y, heading], abs=1e-9)
    assert -total == pytest.approx(cost, abs=1e-8)


def test_the_four_goals():
    model = multi_goal()
    states = torch.tensor([[3.5, 0.0], [6.9, -6.9], [3.5, 0.0], [4.5, 0.0]], dtype=torch.float64)
    actions = torch.tensor([[0.6, 0.0], [0.5, -0.5], [0.5, 0.0], [0.0, 0.0]], dtype=torch.float64)
    moved, rewards, alive = model.step(states, actions, 0)
    assert moved.tolist() == [[4.1, 0.0], [7.0, -7.0], [4.0, 0.0], [4.5, 0.0]]
    want = [(-30 * 0.36 - 0.81 + 10) / 10, (-30 * 0.5 - 53) / 10, (-30 * 0.25 - 1) / 10, 0.0]
    assert rewards.tolist() == pytest.approx(want, abs=1e-12)
    assert alive.tolist() == [False, True, True, False]
    prior = model.prior(states, 0)
    assert prior.log_prob(actions).tolist() == pytest.approx([-2 * math.log(2)] * 4)
    assert cai.infer(model.replace(horizon=3), "smc", num_particles=200, throw=False).particles is not None


@pytest.mark.parametrize("build", [pendulum, cart_pole, dubins])
def test_gradients_pass_through_a_whole_run(build):
    """A small step against the gradient lowers the cost by about what the gradient says."""
    model = build()
    controls = torch.randn(model.horizon, 1, dtype=torch.float64, requires_grad=True)

    def cost():
        states, total = model.reset(1), torch.zeros(())
        for t in range(model.horizon):
            states, reward, _ = model.step(states, controls[t][None], t)
            total = total - reward.sum()
        return total

    first = cost()
    (gradient,) = torch.autograd.grad(first, controls)
    with torch.no_grad():
        step = 1e-6 / gradient.norm()
        controls -= step * gradient
        assert float(first - cost()) == pytest.approx(float(step * gradient.square().sum()), rel=1e-2)
    assert isinstance(model.action_prior, Flat)


def test_the_linear_ones_are_linear_gaussian():
    kinds = {name: isinstance(build_model(name), LinearGaussianModel) for name in NAMES}
    assert [name for name, kind in kinds.items() if kind] == ["double-integrator", "lqg"]
