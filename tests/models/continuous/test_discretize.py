"""Grids of continuous models: against closed forms, loops and numbers of others; what is refused."""

import itertools
import logging
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from gaussian_programs import gaussian_prior
from scipy.integrate import quad

import cai
from cai.models import ContinuousModel, Flat, LinearGaussianModel, LinearNormal, QuadraticReward, discretize
from cai.models.continuous.grid import Grid, merged
from cai.models.continuous.moves import misplaced, spread_over_nodes, unresolved
from cai.models.zoo.plane import multi_goal
from cai.models.zoo.registry import build_model

STATES, ACTIONS = torch.arange(-40, 41).double() * 0.2, torch.arange(-24, 25).double() * 0.25


def walk(horizon=8, alpha=1.0, **changes):
    """s' = s + a + N(0, 0.16), a ~ N(0, 0.64); paid -0.4 s'^2 - 0.2 a^2, in units of alpha."""
    later = [[[0.0]], *[[[0.8 * alpha]]] * (horizon - 1)]
    arguments = {
        "noise": [[0.16]],
        "initial": ([0.5], [[0.25]]),
        "reward": QuadraticReward(Q=later, R=[[0.4 * alpha]], final=[[0.8 * alpha]]),
        "action_prior": LinearNormal(L=[[0.64]]),
    } | changes
    return LinearGaussianModel([[1.0]], [[1.0]], horizon=horizon, temperature=alpha, **arguments)


def log_evidence(horizon):
    """Of `walk`, by the determinant of the whole trajectory's Gaussian."""
    mean, covariance, prices = gaussian_prior(horizon, noise=0.4)
    # The start there has variance 1, here 0.25: everything else follows from it.
    covariance[: horizon + 1, : horizon + 1] -= 0.75
    middle = np.linalg.inv(np.eye(len(mean)) + prices @ covariance) @ prices
    return -0.5 * mean @ middle @ mean - 0.5 * np.linalg.slogdet(np.eye(len(mean)) + covariance @ prices)[1]


def fixed_dynamics_elbo(horizon, noise=0.16, variance=0.64, start=(0.5, 0.25)):
    """Of `walk` (alpha = 1), by the scalar soft Riccati equation written out: V = -P s^2 / 2 - rho."""
    price, constant = 0.8, 0.0
    for t in reversed(range(horizon)):
        constant += price * noise / 2
        curvature = 0.4 + 1 / variance + price
        constant += 0.5 * math.log(variance * curvature)
        price = price - price**2 / curvature + (0.8 if t else 0.0)
    return -0.5 * price * (start[0] ** 2 + start[1]) - constant


# ---- both targets on density nodes --------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_density_nodes_agree_with_the_gaussian_answer_under_both_targets(alpha):
    table = discretize(walk(alpha=alpha), [STATES], [ACTIONS])
    assert table.mdp.is_dense
    assert float(cai.infer(table, "exact").log_evidence) == pytest.approx(log_evidence(8), abs=1e-7)
    assert float(cai.infer(table, "variational").elbo) == pytest.approx(fixed_dynamics_elbo(8), abs=1e-7)


def test_flat_is_uniform_on_the_box_and_its_volume_is_what_is_left():
    """Integral over two actions of e^{r}, by quadrature: certain dynamics, T = 1, and the start is a node."""
    model = walk(1, initial=([1.0], [[0.0]]), action_prior=Flat())
    table = discretize(model, [STATES], [ACTIONS])

    def integrand(a):
        spread = 1 + 0.8 * 0.16
        return math.exp(-0.2 * a * a - 0.4 * (1 + a) ** 2 / spread) / math.sqrt(spread)

    want = math.log(quad(integrand, -6, 6, epsabs=1e-13)[0])
    found = float(cai.infer(table, "exact").log_evidence) + math.log(12.0)
    assert found == pytest.approx(want, abs=1e-7)


def test_interpolation_is_of_second_order_with_fixed_dynamics():
    errors = []
    for step in (0.1, 0.05):
        axis = torch.arange(-round(4 / step), round(4 / step) + 1).double() * step
        table = discretize(walk(3), [axis], [ACTIONS * 0.931], noise="interpolate")  # so that moves miss the nodes
        errors.append(float(cai.infer(table, "variational").elbo) - fixed_dynamics_elbo(3))
    assert abs(errors[1]) < 4e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


def test_interpolation_under_the_exact_target_is_luck_where_the_model_has_none(caplog):
    model = walk(3, noise=None, initial=([3.07], [[0.0]]))
    with caplog.at_level(logging.WARNING, "cai.models"):
        table = discretize(model, [STATES], [ACTIONS * 0.93])
    assert "under the exact target noise that can be wished away" in caplog.text
    exact, fixed = cai.infer(table, "exact"), cai.infer(table, "variational")
    truth = fixed_dynamics_elbo(3, noise=0.0, start=(3.07, 0.0))
    assert float(fixed.elbo) == pytest.approx(truth, abs=0.02)
    assert float(exact.log_evidence) > truth + 0.01
    assert float(exact.luck) > 0.01


def test_auto_takes_the_density_from_one_spacing_on():
    assert discretize(walk(1), [STATES * 2], [ACTIONS]).mdp.is_dense
    assert not discretize(walk(1), [STATES * 2.01], [ACTIONS]).mdp.is_dense


# ---- rows of the table, by loops ----------------------------------------------------------------------------------


def test_multilinear_weights_keep_the_mean():
    grid = Grid([torch.tensor([0.0, 1.0, 3.0]), torch.tensor([-1.0, 0.0, 0.5, 2.0])], "states", 2)
    points = torch.rand(50, 2).double() * torch.tensor([3.0, 3.0]) - torch.tensor([0.0, 1.0])
    numbers, weights = grid.around(points)
    assert torch.allclose(weights.sum(-1), torch.ones(50).double())
    assert torch.allclose((weights[..., None] * grid.nodes[numbers]).sum(-2), points, atol=1e-12)
    assert grid.around(torch.tensor([3.0, 0.5]).double())[1].max() == 1
    assert float(grid.weights.sum()) == pytest.approx(9.0)
    assert grid.nodes[5].tolist() == [1.0, 0.0]


def test_axes_in_single_precision_have_nodes_all_the_same():
    """0.1 in float32 is off by 1.5e-9, and a sum of such numbers misses the node that it is meant to be."""
    steps = torch.arange(-10, 11) * torch.tensor(0.1)
    model = function_model(dynamics=lambda s, a, t: (s + a).clamp(-1, 1))
    assert discretize(model, [steps], [steps[8:13]]).mdp.num_outcomes == 1


def test_merging_adds_equal_nodes_up_and_drops_zeros():
    numbers = torch.tensor([[3, 1, 3, 0], [2, 2, 2, 2]])
    weights = torch.tensor([[0.25, 0.0, 0.25, 0.5], [0.25, 0.25, 0.25, 0.25]]).double()
    found, kept = merged(numbers, weights)
    assert found.tolist() == [[0, 3], [2, 2]]
    assert kept.tolist() == [[0.5, 0.5], [1.0, 0.0]]


def test_a_gaussian_that_is_interpolated_keeps_mean_and_nearly_the_covariance():
    A, B = torch.tensor([[1.0, 0.1], [0.0, 1.0]]).double(), torch.tensor([[0.0], [0.1]]).double()
    model = LinearGaussianModel(
        A, B, noise=torch.tensor([[0.0, 0.0], [0.0, 0.01]]), initial=(torch.tensor([0.1, 0.2]), torch.zeros(2, 2)),
        horizon=1, reward=QuadraticReward(), action_prior=LinearNormal(L=[[1.0]]),
    )  # fmt: skip
    axis = torch.linspace(-2, 2, 41).double()
    mdp = discretize(model, [axis, axis], [torch.linspace(-3, 3, 7)]).mdp
    nodes = torch.cartesian_prod(axis, axis)
    s, a = int(mdp.state_index("0.5, -0.3")), int(mdp.action_index("2"))
    rows, following = mdp.probabilities[s, a], nodes[mdp.next_states[s, a]]
    mean = (rows[:, None] * following).sum(0)
    assert torch.allclose(mean, torch.tensor([0.47, -0.1]).double(), atol=1e-9)
    variance = (rows[:, None] * (following - mean) ** 2).sum(0)
    assert float(variance[1]) == pytest.approx(0.01, abs=0.1**2 / 4)
    start = (mdp.initial[:, None] * nodes).sum(0)
    assert torch.allclose(start, torch.tensor([0.1, 0.2]).double(), atol=1e-12)


def test_next_states_and_starts_are_density_times_trapezoid_weight():
    axis = torch.tensor([-1.0, -0.7, -0.4, 0.0, 0.2, 0.5, 1.0], dtype=torch.float64)
    mdp = discretize(walk(1, noise=[[0.64]], initial=([0.1], [[0.3]])), [axis], [ACTIONS]).mdp
    weights = np.array([0.15, 0.3, 0.35, 0.3, 0.25, 0.4, 0.25])
    a = 25  # the action 0.25
    row = np.exp(-((axis.numpy() - float(axis[2]) - 0.25) ** 2) / 1.28) * weights
    assert mdp.probabilities[2, a].numpy() == pytest.approx(row / row.sum(), abs=1e-12)
    start = np.exp(-((axis.numpy() - 0.1) ** 2) / 0.6) * weights
    assert mdp.initial.numpy() == pytest.approx(start / start.sum(), abs=1e-12)


def test_the_prior_is_density_times_trapezoid_weight():
    model = walk(1, action_prior=LinearNormal(K0=[[0.3]], k0=[0.1], L=[[0.5]]))
    axis = torch.tensor([-2.0, -1.0, 0.5, 2.0]).double()
    table = discretize(model, [STATES], [axis])
    weights = np.array([0.5, 1.25, 1.5, 0.75])
    s = 45
    density = np.exp(-((axis.numpy() - 0.3 * float(STATES[s]) - 0.1) ** 2) / 1.0) * weights
    assert table.action_prior[s].numpy() == pytest.approx(density / density.sum(), abs=1e-8)
    flat = discretize(model.replace(action_prior=Flat()), [STATES], [axis])
    assert flat.action_prior[0].numpy() == pytest.approx(weights / 4, abs=1e-12)


def test_rewards_of_time_terminal_states_and_the_final_reward_are_paid_as_the_model_pays_them():
    """Every trajectory of a small grid on whose nodes everything lies, run in the model itself."""
    model = ContinuousModel(
        torch.tensor([0.0]),
        lambda s, a, t: (s + a).clamp(-2, 2),
        lambda s, a, t: (1.0 + t) * s[..., 0] - a[..., 0] ** 2,
        3,
        Flat(1),
        lambda s: 10 * s[..., 0],
        temperature=2.0,
        terminal=lambda s: s[..., 0] >= 2,
    )
    axis = torch.tensor([-1.0, 0.0, 1.0]).double()
    table = discretize(model, [torch.arange(-2.0, 3.0).double()], [axis])
    assert table.mdp.terminal.tolist() == [False] * 4 + [True]
    total = 0.0
    for actions in itertools.product((-1.0, 0.0, 1.0), repeat=3):
        states, earned, chance = model.reset(1), 0.0, 1.0
        for t, a in enumerate(actions):
            states, reward, _ = model.step(states, torch.tensor([[a]]).double(), t)
            earned += float(reward)
            chance *= 0.5 if a == 0 else 0.25
        total += chance * math.exp(earned / 2.0)
    assert float(cai.infer(table, "exact").log_evidence) == pytest.approx(math.log(total), abs=1e-12)


def test_a_discount_and_an_infinite_horizon_are_those_of_the_model():
    model = walk(1, reward=QuadraticReward(Q=[[0.8]]), discount=0.9).replace(horizon=math.inf)
    table = discretize(model, [STATES * 0.5], [ACTIONS * 0.5])
    assert (table.horizon, table.discount) == (math.inf, 0.9)
    assert cai.infer(table, "variational").status.ok


def test_gradients_reach_the_dynamics():
    push = torch.tensor([[1.0]], dtype=torch.float64, requires_grad=True)
    evidences = []
    for value in (push, push.detach() + 1e-5, push.detach() - 1e-5):
        model = LinearGaussianModel(
            [[1.0]], value, noise=[[0.16]], initial=([0.5], [[0.25]]), horizon=2,
            reward=QuadraticReward(Q=[[0.8]]), action_prior=LinearNormal(L=[[0.64]]),
        )  # fmt: skip
        evidences.append(cai.infer(discretize(model, [STATES], [ACTIONS]), "exact").log_evidence)
    (gradient,) = torch.autograd.grad(evidences[0], push)
    assert float(gradient) == pytest.approx(float(evidences[1] - evidences[2]) / 2e-5, abs=1e-7)


# ---- the multi-goal world -----------------------------------------------------------------------------------------


def multi_goal_values(parts):
    axis, actions = torch.linspace(-7, 7, 14 * parts + 1), torch.linspace(-1, 1, 2 * parts + 1)
    table = discretize(multi_goal(), [axis.double()] * 2, [actions.double()] * 2)
    values = cai.infer(table, "exact", keep="values").values[0]
    places = ("0, 0", "-2.5, 0", "2.5, 2.5")
    return table, [float(values[table.mdp.state_index(place)]) for place in places]


def test_the_multi_goal_world_at_a_quarter(caplog):
    """Values of Haarnoja's world (2017, appendix D) that were worked out elsewhere."""
    with caplog.at_level(logging.WARNING, "cai.models"):
        table, values = multi_goal_values(4)
    assert values == pytest.approx([-23.4590, -8.5224, -13.2006], abs=1e-3)
    assert table.mdp.num_outcomes == 1
    assert not caplog.text


@pytest.mark.campaign
def test_the_multi_goal_world_at_an_eighth():
    table, values = multi_goal_values(8)
    assert (table.mdp.num_states, table.mdp.num_actions) == (12_769, 289)
    assert values == pytest.approx([-23.2154, -8.2331, -12.9958], abs=1e-3)


@pytest.mark.parametrize(
    ("discount", "limit"), [(1.0, (-12.558, -2.935, -5.819)), (0.99, (-12.231, -2.892, -5.699))], ids=["1", ".99"]
)
def test_the_multi_goal_world_in_the_entropy_form(discount, limit):
    """Actions by Lebesgue measure: log 4, the volume of the box, is earned by every step that is taken.

    Half the spacing leaves about a quarter of the error, so that two spacings tell the limit. Walks end long before 30
    steps, so that the horizon stands for an infinite one.
    """
    world = multi_goal()
    reward = world.reward
    found = []
    for parts in (2, 4):
        axes = [torch.linspace(-7, 7, 14 * parts + 1, dtype=torch.float64)] * 2
        actions = [torch.linspace(-1, 1, 2 * parts + 1, dtype=torch.float64)] * 2
        made = world.replace(reward=lambda s, a, t: reward(s, a, t) + math.log(4), discount=discount)
        table = discretize(made, axes, actions)
        values = cai.infer(table, "variational", keep="values").values[0]
        found.append([float(values[table.mdp.state_index(place)]) for place in ("0, 0", "-2.5, 0", "2.5, 2.5")])
    coarse, fine = np.array(found)
    assert np.abs(fine + (fine - coarse) / 3 - limit).max() < 0.05
    assert (coarse < fine).all()
    assert (fine < limit).all()


# ---- what is refused, and what is said ----------------------------------------------------------------------------


def normal(mean, scale=1.0):
    return dist.Normal(mean, scale).to_event(1)


def function_model(**changes):
    arguments = {
        "initial": torch.tensor([0.0]),
        "dynamics": lambda s, a, t: s + a,
        "reward": lambda s, a, t: -(s[..., 0] ** 2),
        "horizon": 3,
        "action_prior": Flat(1),
    } | changes
    return ContinuousModel(**arguments)


AXIS = torch.linspace(-3, 3, 7).double()
REFUSED = {
    "a program": (lambda: discretize(lambda: None, [AXIS], [AXIS]), "expected a LinearGaussianModel or"),
    "a table": (lambda: discretize(build_model("bridge"), [AXIS], [AXIS]), "got a TrajectoryModel"),
    "an unknown noise": (lambda: discretize(walk(2), [AXIS], [AXIS], noise="none"), "expected 'auto', 'density' or"),
    "a bare axis": (lambda: discretize(walk(2), AXIS, [AXIS]), "states is a Tensor; give a list of axes, one for each"),
    "two axes for one coordinate": (lambda: discretize(walk(2), [AXIS] * 2, [AXIS]), "states has 2 axes; the model"),
    "no action axis": (lambda: discretize(walk(2), [AXIS], []), "actions has 0 axes; the model has 1 coordinate:"),
    "an axis that falls": (lambda: discretize(walk(2), [AXIS.flip(0)], [AXIS]), r"states\[0\] does not increase: 3 is"),
    "an axis with a node twice": (
        lambda: discretize(walk(2), [AXIS], [torch.tensor([0.0, 0.0])]),
        r"actions\[0\] does not increase: 0 is followed by 0",
    ),
    "an axis of one node": (lambda: discretize(walk(2), [[0.0]], [AXIS]), r"states\[0\] has shape \[1\]"),
    "an axis of NaN": (lambda: discretize(walk(2), [[0.0, math.nan]], [AXIS]), r"states\[0\] holds NaN"),
    "a batch": (lambda: discretize(walk(2, noise=[[[[0.16]]]] * 2), [AXIS], [AXIS]), r"a batch of shape \[2\]"),
    "dynamics of time": (
        lambda: discretize(function_model(dynamics=lambda s, a, t: s + a + (t == 2)), [AXIS], [AXIS]),
        "dynamics at time index 2 differ from those at 0",
    ),
    "noise of time": (
        lambda: discretize(walk(2, noise=[[[1.0]], [[4.0]]]), [AXIS], [AXIS]),
        "dynamics at time index 1 differ",
    ),
    "a prior of time": (
        lambda: discretize(walk(2, action_prior=LinearNormal(k0=[[0.0], [1.0]], L=[[1.0]])), [AXIS], [AXIS]),
        "the action prior at time index 1 differ",
    ),
    "density of certain dynamics": (
        lambda: discretize(function_model(), [AXIS], [AXIS], noise="density"),
        "noise='density', and the noise is certain, which has no density; use noise='interpolate'",
    ),
    "noise that is not Gaussian between nodes": (
        lambda: discretize(
            function_model(dynamics=lambda s, a, t: dist.Laplace(s + a, 0.1).to_event(1)), [AXIS], [AXIS]
        ),
        "only certain and Gaussian ones can be interpolated",
    ),
    "a start outside": (
        lambda: discretize(function_model(initial=torch.tensor([3.5])), [AXIS], [AXIS]),
        r"the start, \[3.5\], lies outside the box of the states; widen the axes",
    ),
    "a prior outside": (
        lambda: discretize(
            function_model(action_prior=lambda s, t: dist.Uniform(0 * s + 7, 8.0, validate_args=False).to_event(1)),
            [AXIS],
            [AXIS],
        ),
        r"no density at any node of the actions in state \[-3.0\]; widen their axes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_grids_are_refused_with_what_to_do(case):
    make, words = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=words):
        make()


def test_moves_that_lead_out_are_counted_in_a_message(caplog):
    with caplog.at_level(logging.WARNING, "cai.models"):
        discretize(function_model(), [AXIS], [AXIS])
    # From -3, -2 and -1 downwards 2.5, 1.5 and 0.5 of 6 trapezoid weights, and upwards as many: 9 of 42.
    assert "21 % of the moves that the action prior makes from the nodes lead out of the box" in caplog.text


def test_states_have_names_and_places():
    table = discretize(multi_goal(), [AXIS, AXIS], [torch.tensor([-1.0, 1.0])] * 2)
    assert table.mdp.state_name(8) == "-2, -2"
    assert table.mdp.action_name(1) == "-1, 1"
    layout = table.mdp.layout
    assert (layout.rows, layout.columns) == (7, 7)
    assert layout.cells[0] == (6, 0)
    assert layout.cells[6] == (0, 0)
    close = discretize(
        function_model(initial=torch.tensor([1.5])),
        [torch.tensor([0.0, 1e-9, 1.0]).double() + 1],
        [AXIS],
        noise="interpolate",
    )
    assert close.mdp.state_names is None


# ---- axes that answer badly are named -------------------------------------------------------------------------------


def jumping(low, high, coarse):
    """An axis whose spacing halves at 0."""
    fine = torch.arange(round(2 * high / coarse) + 1).double() * coarse / 2
    return torch.cat([torch.arange(round(-low / coarse)).double() * coarse + low, fine])


EVEN = torch.arange(-20, 21).double() * 0.4
SMOOTH = torch.sinh(torch.linspace(-1.5, 1.5, 81).double()) * 8 / math.sinh(1.5)


@pytest.mark.parametrize(
    ("states", "actions", "what"),
    [
        (jumping(-8.0, 8.0, 0.4), ACTIONS, "of the states, the noise has a mean that is off by 0.0"),
        (STATES, jumping(-6.0, 6.0, 0.5), "of the actions, the action prior has a mean that is off by 0.01"),
        (STATES, torch.arange(-5, 6).double() * 1.2, "of the actions, the action prior"),
        (STATES, torch.arange(-24, 25).double() * 0.1, "hold 0.997 of the action prior in place of 1"),
        (EVEN, ACTIONS, None),
        (SMOOTH, ACTIONS, None),
    ],
)
def test_nodes_that_lie_unevenly_or_too_far_apart_are_named(states, actions, what, caplog):
    with caplog.at_level(logging.WARNING, "cai.models"):
        table = discretize(walk(), [states], [actions])
    error = abs(float(cai.infer(table, "variational").elbo) - fixed_dynamics_elbo(8))
    said = [text for text in caplog.messages if "lead out of the box" not in text]
    if what is None:
        assert not said
        assert error < 1e-7
    else:
        assert error > 1e-3
        assert what in " ".join(said)


def test_noise_that_is_narrow_between_coordinates_is_named(caplog):
    model = LinearGaussianModel(
        np.eye(2),
        [[1.0], [0.5]],
        noise=[[0.16, 0.155], [0.155, 0.16]],
        initial=([0.5, 0.0], 0.25 * np.eye(2)),
        horizon=2,
        action_prior=LinearNormal(L=[[0.64]]),
    )
    axis = torch.arange(-9, 10).double() * 0.4
    with caplog.at_level(logging.WARNING, "cai.models"):
        assert discretize(model, [axis, axis], [ACTIONS]).mdp.is_dense
    assert "too far apart for its narrowest direction" in caplog.text


@pytest.mark.parametrize(
    ("spacing", "alpha", "says"), [(0.5, 0.02, True), (0.25, 0.02, True), (0.125, 0.02, False), (0.5, 1.0, False)]
)
def test_actions_too_far_apart_for_their_rewards_are_named(spacing, alpha, says, caplog):
    """One step, whose sum over actions has a closed form: alpha log E_p[exp(-(a - b)^2 / (2 alpha))]."""
    best, state = 0.11, torch.zeros(1, dtype=torch.float64)
    model = ContinuousModel(
        initial=state,
        dynamics=lambda s, a, t: s,
        reward=lambda s, a, t: -((a[..., 0] - best) ** 2) / 2,
        action_prior=lambda s, t: dist.Normal(torch.zeros_like(s), 1.0).to_event(1),
        horizon=1,
        temperature=alpha,
    )
    actions = torch.arange(-6.0, 6.0 + spacing, spacing, dtype=torch.float64)
    with caplog.at_level(logging.WARNING, "cai.models"):
        table = discretize(model, [[-1.0, 0.0, 1.0]], [actions])
    exact = math.log(alpha / (alpha + 1)) / 2 - best**2 / (2 * (alpha + 1))
    error = abs(float(cai.infer(table, "variational").elbo) - exact)
    assert ("too far apart for their rewards at temperature" in caplog.text) == says == (error > 1e-3)


def test_the_end_of_an_axis_and_forbidden_neighbours_tell_nothing_of_the_spacing():
    """The best action at the end of an axis, forbidden ones beside it, and a choice that no reward makes."""
    grid = Grid([torch.arange(5.0).double(), torch.arange(3.0).double()], "actions", 2)
    rows = torch.zeros(3, 5, 3, dtype=torch.float64)
    rows[0, 0, 2] = 100.0
    rows[1] = -torch.inf
    rows[1, 2, 1] = 0.0
    assert unresolved(rows.flatten(1), grid).tolist() == [0.0, 0.0, 0.0]
    rows[2, 2, 0] = 2.0
    assert unresolved(rows.flatten(1), grid)[2] == pytest.approx(2 * math.exp(-2 * math.pi**2 / 4))


def test_moments_far_from_zero_are_those_of_the_nodes():
    far = 2.0**26  # whose square leaves a variance of 1 no digit
    grid = Grid([torch.arange(-40, 41).double() / 4 + far], "states", 1)
    noise = torch.distributions.MultivariateNormal(torch.tensor([far], dtype=torch.float64), torch.eye(1).double())
    assert misplaced(noise, spread_over_nodes(noise, grid), grid) < 1e-9
