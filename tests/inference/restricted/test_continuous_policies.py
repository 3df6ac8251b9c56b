"""Policies over continuous actions that are fitted to trajectories: densities, gradients, and what answers can do."""

import math
import pickle
from statistics import NormalDist

import pyro.distributions as dist
import pytest
import torch
from continuous_policies import NAMES, QUICK, Law, TimedLaw, box, jumpy, walk
from gaussian_models import as_model
from gaussian_oracle import as_problem, random_numbers
from linear_policies import bound
from methods import FAILURE_RATE
from refusals import check, refuse
from torch import nn

import cai
from cai.inference import (
    FlowPolicy,
    LinearGaussianPolicy,
    MixturePolicy,
    NotKnown,
    RestrictedVariational,
    Status,
    TanhGaussianPolicy,
)
from cai.inference.core.squashed import Squashed
from cai.inference.restricted.continuous.box import box_of_prior
from cai.inference.restricted.continuous.classes import make_guide
from cai.inference.restricted.continuous.guides import Sizes
from cai.inference.restricted.continuous.rollouts import Critic, GuideParameters, WorldProblem, world_gradient
from cai.inference.restricted.score_function import SamplingOptions
from cai.models import Flat, bridge, multi_goal, pendulum
from cai.models.common.storage import StorageError


def fitted(model, policy=None, **options):
    return cai.infer(model, "restricted", policy=policy, **QUICK | options)


def moved(policy, m=2, boxed=True, n=2):
    """A guide away from where it begins."""
    torch.manual_seed(1)
    guide = make_guide(policy, Sizes(n, m, 3, boxed))
    with torch.no_grad():
        for part in guide.parameters():
            part.add_(0.2 * torch.randn(part.shape).double())
        guide.low.copy_(torch.tensor([-1.0, -2.0])[:m])
        guide.high.copy_(torch.tensor([1.0, 0.5])[:m])
    return guide


CLASSES = {
    "tanh-gaussian": TanhGaussianPolicy(hidden_sizes=(4,)),
    "mixture": MixturePolicy(hidden_sizes=(4,), components=3),
    "flow": FlowPolicy(hidden_sizes=(4,), bins=4),
}


# ---- densities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_densities_are_those_of_the_change_of_variables(name):
    guide = moved(CLASSES[name])
    law = guide.law(torch.randn(20, 2).double(), 1)
    u = law.sample_u()
    action = law.to_action(u)
    assert ((action > guide.low) & (action < guide.high)).all()
    torch.testing.assert_close(law.to_u(action), u, rtol=1e-9, atol=1e-9)
    jacobian = torch.stack([torch.func.jacrev(law.to_action)(point) for point in u])
    wanted = law.base.log_prob(u) - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(law.log_prob_u(u), wanted, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(law.log_prob(action), wanted, rtol=1e-8, atol=1e-8)


def test_a_flow_scores_what_it_draws_by_its_jacobian():
    guide = moved(CLASSES["flow"])
    states = torch.randn(1, 2).double()
    transforms = guide.base(states, 0).transforms

    def through(z):
        for part in transforms:
            z = part(z)
        return z

    for z in torch.randn(10, 1, 2).double():
        jacobian = torch.func.jacrev(lambda x: through(x[None])[0])(z[0])
        wanted = dist.Normal(0, 1).log_prob(z).sum() - torch.linalg.slogdet(jacobian).logabsdet
        found = guide.base(states, 0).log_prob(through(z))[0]  # the law afresh: nothing of the draw is remembered
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def nodes_and_weights(low, high, size):
    """Of integrals over a box whose integrand may grow towards its ends (tanh-sinh quadrature)."""
    x = torch.linspace(-3, 3, size).double()
    node, weight = (math.pi / 2 * x.sinh()).tanh(), math.pi / 2 * x.cosh() / (math.pi / 2 * x.sinh()).cosh().square()
    sides = [a + (b - a) * (node + 1) / 2 for a, b in zip(low, high, strict=True)]
    shares = [(b - a) / 2 * weight * 6 / (size - 1) for a, b in zip(low, high, strict=True)]
    size = len(low)
    return torch.cartesian_prod(*sides).reshape(-1, size), torch.cartesian_prod(*shares).reshape(-1, size).prod(-1)


@pytest.mark.parametrize(("m", "boxed"), [(1, True), (1, False), (2, True)])
@pytest.mark.parametrize("name", CLASSES)
def test_densities_integrate_to_one(name, m, boxed):
    guide = moved(CLASSES[name], m, boxed, n=1)
    low, high = (guide.low, guide.high) if boxed else (torch.full((m,), -12.0), torch.full((m,), 12.0))
    nodes, weights = nodes_and_weights(low.double(), high.double(), 4001 if m == 1 else 301)
    scores = guide.law(torch.full((len(nodes), 1), 0.4).double(), 2).log_prob(nodes)
    assert float(scores.exp().detach() @ weights) == pytest.approx(1, abs=1e-3)


def test_no_digit_is_lost_near_the_bounds():
    """At u = 30 the action is the bound to the last digit; its density is that of u over 4 e^-2u."""
    base = dist.Normal(torch.tensor([30.0]).double(), 1.0).to_event(1)
    law = Squashed(base, torch.tensor([-2.0]).double(), torch.tensor([2.0]).double())
    u = torch.tensor([30.0]).double()
    wanted = -math.log(2 * math.pi) / 2 - math.log(2) - math.log(4) + 60
    assert float(law.log_prob_u(u)) == pytest.approx(wanted, rel=1e-15)
    assert float(law.to_action(u)) < 2
    assert float(law.log_prob(torch.tensor([2.0]).double())) == -math.inf
    assert float(law.log_prob(torch.tensor([2.5]).double())) == -math.inf


def test_the_box_is_that_of_the_prior():
    low, high = box_of_prior(walk(action_prior=box))
    assert low.tolist() == [-1, -2]
    assert high.tolist() == [1, 0.5]
    assert box_of_prior(walk()) is None
    with pytest.raises(ValueError, match="give low= and high="):
        box_of_prior(walk(action_prior=lambda s, t: dist.Uniform(s - 1, s + 1).to_event(1)))


# ---- gradients ------------------------------------------------------------------------------------------------------

WAYS = {
    "pathwise": (True, "leave-one-out"),
    "leave-one-out": (False, "leave-one-out"),
    "no baseline": (False, "none"),
    "value": (False, "value"),
}


@pytest.mark.parametrize("discount", [1.0, 0.7])
@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_unbiased(way, discount):
    """Against the derivative of the exact bound, in gain, offset and root, at a policy that is not the best."""
    numbers = random_numbers(3, largest=(2, 2, 3))
    model, problem = as_model(numbers, discount=discount), as_problem(numbers)
    T, n, m = numbers.sizes
    guide = make_guide(LinearGaussianPolicy(), Sizes(n, m, T, False))
    generator = torch.Generator().manual_seed(0)
    leaves = [guide.gain, guide.offset, guide.root]
    with torch.no_grad():
        for part in leaves:
            part.add_(0.2 * torch.randn(part.shape, generator=generator))
        guide.root.copy_(guide.root.tril())
    exact = torch.autograd.grad(bound(problem, *leaves, discount), leaves)
    wanted = torch.cat([exact[0].flatten(), exact[1].flatten(), exact[2].flatten()])
    pathwise, baseline = WAYS[way]
    torch.manual_seed(2)
    critic = Critic(guide, (4,)) if baseline == "value" else None
    task = WorldProblem(model, GuideParameters(guide, critic), pathwise)
    options = SamplingOptions(1, 0.1, 300, 100, baseline)
    rows = torch.stack([world_gradient(task, options, generator)[0][: len(wanted)] for _ in range(40)])
    error = rows.std(0) / math.sqrt(len(rows))
    limit = 1.5 * -NormalDist().inv_cdf(FAILURE_RATE / (2 * len(wanted)))  # few rows, so the error is an estimate too
    assert ((rows.mean(0) - wanted).abs() <= limit * error + 1e-9).all()


@pytest.mark.parametrize("policy", ["linear-gaussian", NAMES["flow"], Law(), NAMES["mixture"]], ids=str)
def test_the_gradient_is_chosen_by_what_passes_it(policy):
    smooth = "sampled" if isinstance(policy, str) and "mixture" in policy else "pathwise"
    assert fitted(walk(), policy).details["gradient"] == smooth
    assert fitted(walk(noise=0), policy).details["gradient"] == smooth
    for other in (jumpy(), walk(terminal=lambda s: s[..., 0] > 3)):
        assert fitted(other, policy).details["gradient"] == "sampled"
    assert fitted(walk(), policy, gradient="sampled").details["gradient"] == "sampled"


@pytest.mark.parametrize("gradient", ["pathwise", "sampled"])
def test_fits_rise_to_the_exact_optimum(gradient):
    numbers = random_numbers(5, largest=(2, 1, 2))
    model = as_model(numbers, temperature=5.0)
    best = float(cai.infer(model, "variational").elbo)
    options = {"learning_rate": 0.1, "max_iterations": 120, "num_samples": 50, "num_eval_samples": 20_000}
    found = fitted(model, LinearGaussianPolicy(), gradient=gradient, **options)
    error = found.details["standard_error"]
    assert abs(float(found.elbo) - best) <= 6 * error + 0.02
    assert found.details["history"][0] < best - 0.5


# ---- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tanh-gaussian", "mixture", "flow", "linear-gaussian", "module"])
def test_an_answer_can_do_what_answers_do(name, tmp_path):
    model = walk(discount=0.9)
    found = fitted(model, {"module": TimedLaw()}.get(name, NAMES.get(name, name)))
    paid = found.believed_return / model.temperature - found.policy_divergence
    assert float(found.elbo) == pytest.approx(float(paid), rel=1e-12)
    assert found.log_evidence is None
    assert float(found.luck) == 0
    assert found.details["standard_error"] > 0
    states, actions = found.sample(7, seed=3)
    assert states.shape == (7, 4, 2)
    assert actions.shape == (7, 3, 2)
    policy = cai.extract_policy(found)
    scores = dist.Normal(0.0, 0.5).log_prob(states[:, 0]).sum(-1)
    for t in range(3):
        scores = scores + policy.log_prob(actions[:, t], states[:, t], t)
        scores = scores + dist.Normal(0.9 * states[:, t] + actions[:, t], 0.3).log_prob(states[:, t + 1]).sum(-1)
    torch.testing.assert_close(found.log_prob(states, actions), scores)
    assert found.marginal("s_1").event_shape == (2,)
    assert found.marginal("a_2").mean.shape == (2,)
    draws = [policy.act(states[:, 1], 1, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*draws)
    assert policy.act(states[0, 1], 1).shape == (2,)
    if name == "flow":
        with pytest.raises(NotKnown, match="deterministic=False"):
            policy.act(states[:, 1], 1, deterministic=True)
        with pytest.raises(NotKnown, match="one action"):
            cai.extract_policy(found, "greedy")
    else:
        sure = policy.act(states[:, 1], 1, deterministic=True)
        assert torch.equal(sure, cai.extract_policy(found, "greedy").act(states[:, 1], 1))
    copy, step = pickle.loads(pickle.dumps(found)), (actions[:, 1], states[:, 1], 1)
    assert torch.equal(copy.policy().log_prob(*step), policy.log_prob(*step))
    found.save(tmp_path / "answer")
    stored = cai.load(tmp_path / "answer")
    assert torch.equal(stored.elbo, found.elbo)
    if name == "module":
        with pytest.raises(NotKnown, match="its module stayed behind"):
            stored.policy()
        with pytest.raises(StorageError, match="cannot be saved"):
            policy.save(tmp_path / "policy")
        return
    policy.save(tmp_path / "policy")
    for other in (cai.load(tmp_path / "policy"), stored.policy()):
        assert torch.equal(other.log_prob(*step), policy.log_prob(*step))


def test_the_bound_is_that_of_the_policy():
    """The estimate of an answer against rollouts by `evaluate`, with a discount that here ends chains."""
    model = walk(discount=0.8)
    found = fitted(model, NAMES["mixture"], num_eval_samples=4000)
    outcome = cai.evaluate(cai.extract_policy(found), model, num_rollouts=4000, seed=9)
    error = math.hypot(outcome.expected_return_error, 2 * model.temperature * found.details["standard_error"])
    assert abs(outcome.expected_return - float(found.believed_return)) <= 5 * error


def test_chains_that_ended_pay_and_choose_nothing():
    model = walk(terminal=lambda s: s[..., 0] > 0.2)
    found = fitted(model, "linear-gaussian")
    states, actions = found.sample(200, seed=0)
    over = states[:, :-1, 0] > 0.2
    assert (actions[over] == 0).all()
    assert (states[:, 1:][over] == states[:, :-1][over]).all()
    assert found.log_prob(states, actions).isnan().sum() == 0


def test_certain_dynamics_have_no_density():
    found = fitted(walk(noise=0), "linear-gaussian")
    with pytest.raises(NotKnown, match="log_prob\\(actions, states, t\\)"):
        found.log_prob(*found.sample(3))


def test_flat_numbers_are_relative_to_da():
    found = fitted(walk(action_prior=Flat(2)), "linear-gaussian")
    assert "relative to da" in found.details["note"]
    assert float(found.policy_divergence) == pytest.approx(-float(found.policy_entropy), rel=1e-12)


def test_a_forbidden_reward_shows():
    model = walk(reward=lambda s, a, t: torch.where(s[..., 0] > 5, 0.0, -torch.inf) * torch.ones_like(s[..., 0]))
    found = fitted(model, "linear-gaussian")
    assert found.status is Status.UNAVOIDABLE
    assert float(found.elbo) == -math.inf


def test_diverging_trajectories_name_their_step():
    calm = {"reward": lambda s, a, t: s[..., 0] * 0.0, "final_reward": None, "horizon": 40}
    model = walk(dynamics=lambda s, a, t: torch.where(s.abs() > 3, 1e200 * s, 2 * s + a), **calm)
    found = fitted(model, "linear-gaussian")
    assert found.status is Status.NOT_CONVERGED
    assert 0 < found.details["step"] < 39
    assert found.elbo is None


def test_a_stationary_policy_knows_all_times():
    policy = cai.extract_policy(fitted(walk(), "mixture(stationary=true,hidden_sizes=[4])"))
    assert policy.horizon == math.inf
    assert policy.act(torch.zeros(3, 2), 100).shape == (3, 2)
    linear = fitted(walk(), "linear-gaussian(stationary=true)", gradient="sampled")
    assert cai.extract_policy(linear).horizon == math.inf


def test_fits_may_start_elsewhere():
    """Trajectories of the fit start far off; what the answer reports is from the model's own start."""
    far = torch.full((3, 2), 40.0).double()
    there, here = fitted(walk(), NAMES["mixture"], start=far), fitted(walk(), NAMES["mixture"])
    assert max(there.details["history"]) < 20 * min(here.details["history"])
    assert float(there.elbo) > -200
    law = dist.Normal(torch.full((2,), 40.0).double(), 0.1).to_event(1)
    assert max(fitted(walk(), NAMES["mixture"], start=law).details["history"]) < -500


def test_compare_takes_names_and_modules():
    backends = [f"restricted:policy={NAMES['flow']},max_iterations=2,num_samples=4,num_eval_samples=20"]
    backends += [RestrictedVariational(Law(), max_iterations=2, num_samples=4, num_eval_samples=20)]
    table = cai.compare(walk(), backends, num_rollouts=20).to_frame()
    assert table.elbo.notna().all()
    assert table.real_return.notna().all()


@pytest.mark.parametrize("policy", ["mixture", "flow"])
def test_runs_go_on_with_the_same_bits(policy, tmp_path):
    options = {"policy": NAMES[policy], "baseline": "value", "num_samples": 5, "num_eval_samples": 20, "throw": False}
    model = multi_goal(horizon=3)
    whole = cai.infer(model, "restricted", **options, max_iterations=6)
    cai.infer(model, "restricted", **options, max_iterations=2, folder=tmp_path / "run", checkpoint_every=1)
    again = cai.resume(tmp_path / "run", max_iterations=6, throw=False)
    assert again.details["history"] == whole.details["history"]
    assert torch.equal(again.elbo, whole.elbo)
    for name, part in whole.acting.parameters.items():
        assert torch.equal(part, again.acting.parameters[name]), name
    other = cai.infer(model, "restricted", **options, max_iterations=6, seed=1)
    assert other.details["history"] != whole.details["history"]


def test_a_policy_of_networks_runs_in_an_environment():
    gymnasium = pytest.importorskip("gymnasium")
    model = pendulum(horizon=4)
    policy = cai.extract_policy(fitted(model, "tanh-gaussian(low=-2,high=2,hidden_sizes=[4])"))
    with pytest.raises(ValueError, match="this policy's observations are 2 numbers"):
        policy.run(gymnasium.make("Pendulum-v1"), seed=0)


# ---- bad input ------------------------------------------------------------------------------------------------------


class Wrong(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind, self.weight = kind, nn.Parameter(torch.zeros(2))

    def forward(self, states):
        if self.kind == "tensor":
            return states
        if self.kind == "fails":
            raise RuntimeError("no such thing")
        return dist.Normal(states + self.weight, 1.0)


BAD = {
    "unbounded on a box": (lambda: fitted(walk(action_prior=box), "linear-gaussian"), "density 0.*TanhGaussianPolicy"),
    "no box": (lambda: fitted(walk(), TanhGaussianPolicy()), "the action prior has none; give low= and high="),
    "one bound": (lambda: TanhGaussianPolicy(low=1.0), "give both"),
    "empty box": (lambda: FlowPolicy(low=1.0, high=1.0), "low < high"),
    "bounds": (lambda: fitted(walk(), MixturePolicy(low=[0.0] * 3, high=1.0)), "actions have 2"),
    "no layer": (lambda: MixturePolicy(hidden_sizes=()), "at least one layer"),
    "components": (lambda: MixturePolicy(components=0), "components is 0"),
    "flag": (lambda: MixturePolicy(stationary="no"), TypeError, "expected True or False"),
    "no distribution": (lambda: fitted(walk(), Wrong("tensor")), "returned a Tensor.*expected a distribution of batch"),
    "no event": (lambda: fitted(walk(), Wrong("normal")), r"batch shape \[32, 2\] and event shape \[\]"),
    "module fails": (lambda: fitted(walk(), Wrong("fails")), "module failed on states.*no such thing"),
    "jumps": (
        lambda: fitted(walk(terminal=lambda s: s[..., 0] > 3), "linear-gaussian", gradient="pathwise"),
        "at a terminal state rewards jump; give 'sampled'",
    ),
    "mixture's path": (lambda: fitted(walk(), NAMES["mixture"], gradient="pathwise"), "pass no gradients"),
    "dynamics' path": (lambda: fitted(jumpy(), "linear-gaussian", gradient="pathwise"), "next state pass no gradients"),
    "closed": (lambda: fitted(walk(), "linear-gaussian", gradient="closed"), "moments of a LinearGaussianPolicy"),
    "tables": (lambda: fitted(walk(), "tabular"), "numbered states and actions"),
    "restarts": (lambda: fitted(walk(), "linear-gaussian", restarts=2), "several seeds"),
    "start's shape": (lambda: fitted(walk(), "linear-gaussian", start=[1.0, 2.0]), r"expected finite states \[K, n\]"),
    "start's size": (lambda: fitted(walk(), "linear-gaussian", start=[[1.0]]), r"model's are \[2\]"),
    "start on tables": (lambda: cai.infer(bridge(), "restricted", start=[[1.0]]), "start is for fits to trajectories"),
    "value on tables": (lambda: cai.infer(bridge(), "restricted", baseline="value"), "baseline='value' is for"),
    "path on tables": (lambda: cai.infer(bridge(), "restricted", gradient="pathwise"), "gradient='pathwise' is for"),
    "observed density": (
        lambda: cai.extract_policy(fitted(walk(), NAMES["mixture"])).act(torch.zeros(3)),
        r"states have shape \[3\]",
    ),
    "late": (lambda: cai.extract_policy(fitted(walk(), NAMES["mixture"])).act(torch.zeros(2), 3), "steps 0 to 2"),
    "kind": (lambda: fitted(walk(), NAMES["mixture"]).policy("plan"), "expected one of stochastic, greedy"),
    "sizes of trajectories": (
        lambda: fitted(walk(), NAMES["mixture"]).log_prob(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)),
        "T \\+ 1",
    ),
}


@refuse(BAD)
def test_bad_questions(build, error, pattern):
    check(build, error, pattern)
