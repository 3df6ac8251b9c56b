"""ContinuousModel: functions that are refused, and with which words; terminal states; copies and files."""

import copy
import math
import pickle

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from cai.models import ContinuousModel, Flat, LinearNormal, Simulator, discretize


def drift(s, a, t):
    return s + 0.1 * torch.cat([s[..., 1:], a], -1)


def cost(s, a, t):
    return -s.square().sum(-1) - a.square().sum(-1)


def model(**changes):
    arguments = {
        "initial": torch.tensor([1.0, 0.0]),
        "dynamics": drift,
        "reward": cost,
        "horizon": 3,
        "action_prior": LinearNormal(L=[[1.0]]),
    } | changes
    return ContinuousModel(**arguments)


def normal(mean, scale=1.0):
    return dist.Normal(mean, scale).to_event(1)


WRONG = {
    "a reward with an axis of one": (
        {"reward": lambda s, a, t: -(s[..., :1] ** 2)},
        r"reward returned shape \[1\] for states \[2\]; expected \[\], one number for each state; take the coordinate",
    ),
    "a reward that sums over everything": (
        {"reward": lambda s, a, t: -(s**2).sum()},
        r"reward returned shape \[\] for states \[5, 2\]; expected \[5\], one number for each state",
    ),
    "a reward of NumPy": (
        {"reward": lambda s, a, t: np.zeros(s.shape[:-1])},
        "reward returned a numpy.*; expected a tensor of shape .*: compute with torch",
    ),
    "a reward of NaN": ({"reward": lambda s, a, t: (s[..., 0] - 2).log()}, "reward returned NaN or"),
    "a reward of +inf": ({"reward": lambda s, a, t: 1 / s[..., 1].abs()}, r"reward returned NaN or \+inf"),
    "a final reward with an axis of one": (
        {"final_reward": lambda s: s[..., :1]},
        r"final_reward returned shape \[1\]",
    ),
    "dynamics that drop the rows": (
        {"dynamics": lambda s, a, t: torch.stack([s[..., 0].mean(), a[..., 0].mean()])},
        r"dynamics returned shape \[2\] for states \[5, 2\] and actions \[5, 1\]; expected \[5, 2\]: keep the leading",
    ),
    "dynamics for one chain": (
        {"dynamics": lambda s, a, t: torch.stack([s[0], a[0]])},
        r"dynamics failed when it was called with states \[5, 2\] .*leading axes are free, so write s\[..., 0\]",
    ),
    "dynamics of NumPy": (
        {"dynamics": lambda s, a, t: s.numpy()},
        "dynamics returned a numpy.ndarray; expected a tensor .*compute with torch",
    ),
    "dynamics that return a pair": ({"dynamics": lambda s, a, t: (s, 1.0)}, "dynamics returned a tuple"),
    "dynamics of NaN": (
        {"dynamics": lambda s, a, t: torch.stack([(-s[..., 0]).sqrt(), a[..., 0]], -1)},
        r"dynamics returned NaN or inf at time index 0 for s = \[1.0, 0.0\]",
    ),
    "dynamics of scalars": (
        {"dynamics": lambda s, a, t: dist.Normal(s, 1.0)},
        r"distribution of batch shape \[2\] and event shape \[\].*add .to_event\(1\)",
    ),
    "a distribution that drops the rows": (
        {"dynamics": lambda s, a, t: normal(s.reshape(-1, 2)[0])},
        r"distribution of batch shape \[\] and event shape \[2\] for states \[5, 2\].*keep the leading axes",
    ),
    "dynamics that fail": (
        {"dynamics": lambda s, a, t: s @ torch.eye(3).double()},
        r"dynamics failed when it was called with states \[2\] and actions \[1\]: RuntimeError",
    ),
    "dynamics of two arguments": ({"dynamics": lambda s, a: s}, "dynamics failed when it was called"),
    "a start of one number": ({"initial": 1.0}, "initial"),
    "a start of rows": ({"initial": torch.zeros(3, 2)}, r"initial has shape \[3, 2\]; expected \[n\]"),
    "a start of scalars": ({"initial": dist.Normal(torch.zeros(2), 1.0)}, r"add .to_event\(1\)"),
    "a start of NaN": ({"initial": [math.nan, 0.0]}, "initial holds NaN"),
    "a terminal of numbers": (
        {"terminal": lambda s: s[..., 0]},
        r"terminal returned a tensor of torch.float64 \[\] for states \[2\]; expected a bool tensor \[\]",
    ),
    "a table as reward": ({"reward": torch.zeros(3)}, r"reward is a Tensor; expected a function of \(s, a, t\)"),
    "no dynamics": ({"dynamics": None}, "dynamics is a NoneType"),
    "no prior": ({"action_prior": None}, "action_prior is missing, and continuous actions have no default"),
    "one distribution as prior": (
        {"action_prior": dist.Normal(torch.zeros(1), 1.0).to_event(1)},
        r"action_prior is a Independent; expected LinearNormal, Flat\(\) or a function \(s, t\) -> distribution",
    ),
    "a table as prior": ({"action_prior": [1.0]}, "action_prior is a list; expected LinearNormal"),
    "a prior that is a tensor": ({"action_prior": lambda s, t: s}, "action_prior returned a Tensor"),
    "a prior of scalars": (
        {"action_prior": lambda s, t: dist.Normal(s[..., :1], 1.0)},
        r"action_prior has batch shape .*add .to_event\(1\)",
    ),
    "a prior of NaN": ({"action_prior": lambda s, t: normal(s[..., :1] * math.nan)}, "NaN|constraint"),
    "a prior of another size": ({"action_prior": LinearNormal(K0=[[1.0, 0.0, 0.0]], L=[[1.0]])}, "K0 has shape"),
    "a prior that is a batch": (
        {"action_prior": LinearNormal(L=torch.ones(2, 1, 1, 1))},
        "a ContinuousModel is a single problem",
    ),
    "a flat prior that could be of two sizes": (
        {"action_prior": Flat(), "dynamics": lambda s, a, t: s + a},
        r"the dynamics take 2 as well as 1; write Flat\(1\), Flat\(2\)",
    ),
    "an infinite horizon": ({"horizon": math.inf}, "finitely many steps: give horizon=N"),
    "no steps": ({"horizon": 0}, "at least 1"),
    "temperature 0": ({"temperature": 0.0}, "temperature is 0.0"),
    "discount 0": ({"discount": 0.0}, "discount is 0.0"),
    "an unknown argument": ({"policy": None}, "did you mean 'action_prior'"),
}


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("case", WRONG)
def test_bad_functions_are_refused_with_what_to_do(case):
    wrong, words = WRONG[case]
    with pytest.raises((ValueError, TypeError), match=words):
        model(**wrong)


def test_what_may_be_left_out_or_said_shorter():
    assert model(action_prior=Flat()).action_dim == 1
    assert model(action_prior=Flat(2), dynamics=lambda s, a, t: s + a).action_dim == 2
    constant = model(action_prior=lambda s, t: normal(torch.zeros(1).double()))
    assert constant.prior(torch.zeros(4, 2), 0).batch_shape == (4,)
    assert model(reward=lambda s, a, t: torch.full_like(s[..., 0], -torch.inf)).horizon == 3
    assert model(initial=normal(torch.zeros(2).double())).state_dim == 2


def test_terminal_states_are_not_left_and_what_is_earned_there_is_paid_on_entry():
    ends = model(
        initial=torch.tensor([1.0, 0.0]),
        dynamics=lambda s, a, t: s + 1.0,
        reward=lambda s, a, t: s[..., 0],
        final_reward=lambda s: 100 * s[..., 0],
        terminal=lambda s: s[..., 0] >= 3,
    )
    assert isinstance(ends, Simulator)
    states, total = ends.reset(2), []
    for t in range(3):
        states, rewards, alive = ends.step(states, torch.zeros(2, 1).double(), t)
        total.append((float(states[0, 0]), float(rewards[0]), bool(alive[0])))
    assert total == [(2.0, 1.0, True), (3.0, 2.0, False), (3.0, 0.0, False)]
    later = ends.replace(terminal=lambda s: s[..., 0] >= 4)
    states = later.reset(1)
    for t in range(3):
        states, rewards, _ = later.step(states, torch.zeros(1, 1).double(), t)
    assert float(rewards) == 3.0 + 400.0


def test_single_precision_becomes_double():
    start = dist.Normal(torch.tensor([0.1, 0.2]), 1.0).to_event(1)
    whole = dist.MultivariateNormal(torch.zeros(2), scale_tril=torch.eye(2))
    prior = dist.Normal(torch.zeros(1), torch.ones(1)).to_event(1)
    for initial in (
        start,
        whole,
        dist.Delta(torch.zeros(2), event_dim=1),
        dist.Uniform(torch.zeros(2), 1.0).to_event(1),
    ):
        made = model(
            initial=initial, action_prior=lambda s, t: prior, dynamics=lambda s, a, t: s + a @ s.new_ones(1, 2)
        )
        assert made.reset(3).dtype == torch.float64
        assert made.prior(made.reset(3), 0).sample().dtype == torch.float64
        assert made.start_distribution().batch_shape == ()
    mean = model(initial=start).start_distribution().mean
    assert mean.tolist() == pytest.approx([0.1, 0.2], abs=1e-7)
    for moves in (lambda s, a, t: s.float(), lambda s, a, t: dist.Normal(s.float(), 0.5).to_event(1)):
        made = model(dynamics=moves, action_prior=LinearNormal(L=torch.eye(1)))
        assert made.transition(made.reset(3), torch.zeros(3, 1).double(), 0).sample().dtype == torch.float64


def test_distributions_of_torch_are_those_of_pyro():
    """In the start, in a prior and in the noise: as programs, and on a grid."""

    def made(kind):
        def around(mean):
            return kind.Independent(kind.Normal(mean, mean.new_full((1,), 0.5)), 1)

        return ContinuousModel(
            around(torch.zeros(1)),
            lambda s, a, t: around(s + a),
            lambda s, a, t: -s.square().sum(-1),
            3,
            lambda s, t: around(0 * s),
        )

    ours, theirs = made(dist), made(torch.distributions)
    assert theirs.start_distribution().mean.dtype == torch.float64
    seen = []
    for world in (ours, theirs):
        torch.manual_seed(0)
        trace = poutine.trace(world).get_trace()
        seen.append([float(trace.nodes[name]["value"]) for name in ("s_1", "a_1", "s_2", "a_3", "s_4")])
    assert seen[0] == seen[1]
    axes = [torch.linspace(-2, 2, 9)]
    tables = [discretize(world, axes, axes, noise="interpolate").mdp.dense() for world in (ours, theirs)]
    assert torch.equal(*tables)


class Push:
    """Acts by the sign of the first coordinate, with a coin when it is not deterministic."""

    def act(self, states, t, *, generator=None, deterministic=False):
        noise = 0.0 if deterministic else torch.randn(len(states), 1, generator=generator, dtype=torch.float64)
        return -states[..., :1].sign() + noise


def test_a_rollout_is_its_steps_one_by_one():
    world = model(discount=0.8, horizon=6, initial=normal(torch.zeros(2).double()), terminal=lambda s: s[..., 0] > 1.5)
    runs = world.rollout(Push(), 500, torch.Generator().manual_seed(1))
    again = world.rollout(Push(), 500, torch.Generator().manual_seed(1))
    assert all(torch.equal(one, two) for one, two in zip(runs, again, strict=True))
    assert runs.states.shape == (500, 7, 2)
    assert runs.actions.shape == (500, 6, 1)
    for t in range(6):
        alive = runs.alive[:, t]
        s, a = runs.states[:, t], runs.actions[:, t]
        assert torch.equal(runs.rewards[:, t], torch.where(alive, cost(s, a, t), 0.0))
        assert not runs.alive[~alive, t + 1].any()
        assert torch.equal(runs.states[~alive, t + 1], runs.states[~alive, t])
        assert (runs.actions[~alive, t] == 0).all()
        going = runs.alive[:, t + 1]
        assert torch.equal(runs.states[going, t + 1], drift(s, a, t)[going])
    assert torch.equal(runs.returns, runs.rewards.sum(1))
    assert 0.05 < float(runs.alive[:, -1].double().mean()) < 0.3
    sure = model().rollout(Push(), 2, torch.Generator(), deterministic=True)
    assert sure.actions[0].tolist() == [[-1.0]] * 3


def test_copies_pickles_and_files(tmp_path):
    given = model(name="mine", action_prior=Flat())
    states, actions = torch.randn(3, 2).double(), torch.randn(3, 1).double()
    for other in (copy.deepcopy(given), pickle.loads(pickle.dumps(given))):
        assert repr(other) == repr(given)
        assert torch.equal(other.step(states, actions, 0).next_states, given.step(states, actions, 0).next_states)
    with pytest.raises(ValueError, match="dynamics is a function, which cannot be saved"):
        given.save(tmp_path / "m.cai")


def test_it_says_what_it_is():
    assert repr(model()) == (
        "ContinuousModel('model', n=2, m=1, horizon=3, temperature=1, discount=1, action_prior=LinearNormal(m=1))"
    )
    assert "drift" in model()._repr_html_()
    assert model(dynamics=lambda s, a, t: normal(s)).is_deterministic is False
    assert model().is_deterministic is True


MIXED = {
    "dynamics": {"dynamics": lambda s, a, t: s + a / a.norm()},
    "noise": {"dynamics": lambda s, a, t: dist.Normal(s + a, a.norm()).to_event(1)},
    "reward": {"reward": lambda s, a, t: -s.square().sum(-1) * s.square().mean()},
    "final_reward": {"final_reward": lambda s: s.sum() - s[..., 0]},
    "terminal": {"terminal": lambda s: s[..., 0] > s[..., 0].mean()},
    "action_prior": {"action_prior": lambda s, t: dist.Normal(s, 1 + s.norm()).to_event(1)},
    "draws": {"dynamics": lambda s, a, t: s + a + torch.randn_like(s)},
}


@pytest.mark.parametrize("what", MIXED)
def test_functions_that_mix_rows_of_states_are_refused(what):
    """A norm over all axes, say: shapes are right, and every rollout would depend on the others."""
    options = {
        "initial": dist.Normal(torch.zeros(2).double(), 1.0).to_event(1),
        "dynamics": lambda s, a, t: s + a,
        "reward": lambda s, a, t: -s.square().sum(-1),
        "horizon": 4,
        "action_prior": LinearNormal(L=torch.eye(2)),
    }
    ContinuousModel(**options)
    name = {"noise": "dynamics", "draws": "dynamics"}.get(what, what)
    with pytest.raises(ValueError, match=rf"{name} returned other numbers for 5 states at once than for each alone"):
        ContinuousModel(**options | MIXED[what])


def test_priors_of_counted_actions_are_refused():
    with pytest.raises(ValueError, match="whose actions are counted; expected a distribution of real numbers"):
        ContinuousModel(
            torch.zeros(2).double(),
            lambda s, a, t: s + a,
            lambda s, a, t: -s.square().sum(-1),
            4,
            lambda s, t: dist.Bernoulli(torch.full_like(s, 0.5)).to_event(1),
        )
