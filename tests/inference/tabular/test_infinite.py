"""Infinite horizons: every tabular recursion settles where it should, at the rate it should, and else says so."""

import itertools
import math

import numpy as np
import pytest
import torch
from refusals import holds_no_nan

import cai
from cai.inference import Status, StructuredVariational, SumProduct
from cai.inference.backends.risk import RiskSensitive
from cai.inference.tabular.methods.boltzmann import BoltzmannExploration
from cai.inference.tabular.methods.value_iteration import ValueIteration
from cai.models import MDP, OutcomeReward, TableReward, TrajectoryModel, bridge

INF = math.inf
VARIATIONAL = StructuredVariational(solver="closed-form", tolerance=1e-10)

# (backend, eta, whether the choice is hard); eta as in `Recursion`
PLANNERS = {
    "exact": (SumProduct(), 1.0, False),
    "variational": (VARIATIONAL, 0.0, False),
    "value-iteration": (ValueIteration(), 0.0, True),
    "best": (ValueIteration("best"), INF, True),
    "worst": (ValueIteration("worst"), -INF, True),
    "boltzmann": (BoltzmannExploration(), 0.0, True),
    "risk -inf": (RiskSensitive(-INF), -INF, False),
    "risk -3": (RiskSensitive(-3.0), -3.0, False),
    "risk -0.3": (RiskSensitive(-0.3), -0.3, False),
    "risk -1e-12": (RiskSensitive(-1e-12), -1e-12, False),
    "risk 0.4": (RiskSensitive(0.4), 0.4, False),
    "risk 1": (RiskSensitive(1.0), 1.0, False),
    "risk 3": (RiskSensitive(3.0), 3.0, False),
    "risk inf": (RiskSensitive(INF), INF, False),
}
FIXED = [name for name, (_, eta, _) in PLANNERS.items() if eta == 0]


def slower(backend, **changes):
    """The backend with other limits."""
    return type(backend)(**{**backend.__dict__, **changes})


class World:
    """A random process as arrays; rewards of one sign, so that the dial of that side settles."""

    def __init__(self, seed, sign, discount=0.9, terminal=False, size=4):
        rng = np.random.default_rng(seed)
        self.moves = rng.dirichlet(np.full(size, 0.6), size=(size, 2))
        self.rewards = sign * rng.gamma(1.0, 0.7, size=(size, 2, size))
        self.prior = rng.dirichlet(np.ones(2) * 2, size=size)
        self.start = rng.dirichlet(np.ones(size))
        self.nonterminal = np.ones(size, dtype=bool)
        if terminal:
            self.nonterminal[-1] = False
            self.moves[-1] = np.eye(size)[-1]
            self.rewards[-1] = 0.0
        self.discount, self.alpha = discount, float(rng.choice([0.5, 1.0, 2.0]))
        mdp = MDP(self.moves, self.start, terminal=np.flatnonzero(~self.nonterminal))
        self.model = TrajectoryModel(mdp, TableReward(self.rewards), INF, self.alpha, discount, self.prior)

    def backup(self, values, eta):
        """q [S, A] in nats from v [S], by the definition: outcomes and falls in one list."""
        stays = np.log(self.moves, where=self.moves > 0, out=np.full_like(self.moves, -INF))
        logs = np.concatenate([stays + math.log(self.discount), stays + np.log1p(-self.discount)], -1)
        rho = self.rewards / self.alpha
        worth = np.concatenate([rho + values, rho + 0 * values], -1)
        possible = np.isfinite(logs)
        if abs(eta) < 1e-9:
            return np.where(possible, np.exp(logs) * worth, 0.0).sum(-1)
        if math.isinf(eta):
            return np.where(possible, worth, -eta).max(-1) if eta > 0 else np.where(possible, worth, INF).min(-1)
        return np.logaddexp.reduce(logs + eta * worth, axis=-1) / eta

    def advance(self, values, eta, hard):
        q_values = self.backup(values, eta)
        chosen = q_values.max(-1) if hard else np.logaddexp.reduce(np.log(self.prior) + q_values, axis=-1)
        return np.where(self.nonterminal, chosen, 0.0)

    def settled(self, eta, hard):
        """The fixed point, iterated until it stands still."""
        values = np.zeros(len(self.nonterminal))
        for _ in range(100_000):
            following = self.advance(values, eta, hard)
            if np.abs(following - values).max() <= 1e-15 * max(1.0, np.abs(values).max()):
                break
            values = following
        return values


def sign_for(eta):
    """Costs settle for kind dynamics, where a fall is welcome, and earnings for unkind ones."""
    return -1.0 if eta >= 0 else 1.0


# ---- the fixed point ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANNERS)
def test_the_fixed_point_is_that_of_the_definition(name):
    backend, eta, hard = PLANNERS[name]
    for seed in range(2):
        world = World(seed, sign_for(eta), terminal=seed % 2 == 1)
        got = backend.run(world.model)
        assert got.status is Status.SUCCESS
        want = world.settled(eta, hard)
        # The criterion: 1e-10, relative to the largest value once that exceeds 1.
        slack = 1.1e-10 * max(1.0, np.abs(want).max())
        assert np.abs(got.values[0].numpy() / world.alpha - want).max() <= slack, seed
        nonterminal = world.nonterminal
        q_values = world.backup(want, eta)
        assert np.abs(got.q_values[0].numpy() / world.alpha - q_values)[nonterminal].max() <= 2 * slack, seed
        assert got.action_probs.shape == (1, 4, 2)
        scores = np.log(world.prior) + q_values
        if hard and name != "boltzmann":
            assert (
                got.action_probs[0].argmax(-1).numpy()[nonterminal].tolist()
                == q_values.argmax(-1)[nonterminal].tolist()
            )
        else:
            rows = np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True))
            assert np.allclose(got.action_probs[0].numpy()[nonterminal], rows[nonterminal], atol=1e-9), seed
        holds_no_nan(got)


@pytest.mark.parametrize("name", PLANNERS)
def test_a_long_horizon_tends_to_the_infinite_one(name):
    backend, eta, _ = PLANNERS[name]
    world = World(11, sign_for(eta), discount=0.7)
    got, finite = backend.run(world.model), backend.run(world.model.replace(horizon=80))
    for field in ("values", "q_values", "action_probs"):
        assert torch.allclose(getattr(got, field)[0], getattr(finite, field)[0], atol=1e-8), field
    # The parts of the bound add up along the whole chain.
    for field in ("elbo", "believed_return", "luck", "policy_divergence", "policy_entropy"):
        assert float(getattr(got, field)) == pytest.approx(float(getattr(finite, field)), abs=1e-7), field
    assert torch.allclose(got.initial, finite.initial, atol=1e-9)
    assert torch.allclose(got.state_marginals[0], finite.state_marginals[:-1].sum(0), atol=1e-7)
    dual = 0.0 if eta == 0 or math.isinf(eta) else float(got.luck) / eta
    if name.startswith("risk") and math.isfinite(eta) and abs(eta) > 1e-9:
        parts = float(got.believed_return) / world.alpha - float(got.policy_divergence) - dual
        assert float(got.details["start"]) == pytest.approx(parts, abs=1e-8)


def explicit(model):
    """The same problem with the fall written as one more outcome of each step, into an end."""
    mdp = model.mdp
    num_states, num_actions, width = mdp.probabilities.shape
    stays = model.continuation_probability[:, None, None, None]
    chances = (mdp.probabilities[..., None] * torch.cat([stays, 1 - stays], -1)).reshape(num_states, num_actions, -1)
    following = mdp.successors().expand(num_states, num_actions, width)[..., None].repeat(1, 1, 1, 2)
    following[..., 1] = num_states
    rewards = model.reward_table(0).expand(num_states, num_actions, width)[..., None].expand(-1, -1, -1, 2)
    end = torch.zeros(1, num_actions, 2 * width, dtype=torch.float64)
    sure = end.clone()
    sure[..., 0] = 1.0
    process = MDP.from_successors(
        torch.cat([following.reshape(chances.shape), torch.full((1, num_actions, 2 * width), num_states)]),
        torch.cat([chances, sure]),
        torch.cat([mdp.initial, torch.zeros(1, dtype=torch.float64)]),
        terminal=torch.cat([mdp.terminal, torch.ones(1, dtype=torch.bool)]),
    )
    prior = torch.cat([model.action_prior, torch.full((1, num_actions), 1 / num_actions, dtype=torch.float64)])
    reward = OutcomeReward(torch.cat([rewards.reshape(chances.shape), end]))
    return TrajectoryModel(process, reward, INF, model.temperature, 1.0, prior)


@pytest.mark.parametrize("name", PLANNERS)
def test_a_discount_is_an_absorbing_state(name):
    backend, eta, _ = PLANNERS[name]
    world = World(23, sign_for(eta), discount=0.8, terminal=name not in ("exact", "risk -0.3"))
    short, long = backend.run(world.model), backend.run(explicit(world.model))
    assert short.status is Status.SUCCESS
    assert long.status is Status.SUCCESS
    size = max(1.0, float(short.values.abs().max()) / world.alpha)
    for field in ("values", "q_values", "action_probs", "state_marginals", "initial"):
        left, right = getattr(short, field), getattr(long, field)
        right = right[:-1] if field == "initial" else right[:, :-1]
        left, right = left[..., : sum(world.nonterminal)], right[..., : sum(world.nonterminal)]
        if field in ("q_values", "action_probs"):
            left, right = (
                getattr(short, field)[:, world.nonterminal],
                getattr(long, field)[:, :-1][:, world.nonterminal],
            )
        assert torch.allclose(left, right, atol=1e-8 * size), field
    for field in ("elbo", "believed_return", "luck", "policy_divergence", "policy_entropy"):
        assert float(getattr(short, field)) == pytest.approx(float(getattr(long, field)), abs=1e-8 * size), field


# ---- acceleration ------------------------------------------------------------------------------------------------

SLOW = ["exact", "variational", "value-iteration", "best", "worst", "risk -0.3", "boltzmann"]


def slow_world(name):
    """A ring of which every step is small, next to undiscounted: backups need hundreds of steps."""
    eta = PLANNERS[name][1]
    rng = np.random.default_rng(5)
    size = 5
    moves = np.zeros((size, 2, size))
    for state in range(size):
        moves[state, 0, (state + 1) % size] = 0.8
        moves[state, 0, state] = 0.2
        moves[state, 1, (state - 1) % size] = 1.0
    reward = sign_for(eta) * 1e-3 * rng.gamma(1.0, 1.0, size=(size, 2))
    return TrajectoryModel(MDP(moves, np.ones(size) / size), TableReward(reward), horizon=INF, discount=0.97)


@pytest.mark.parametrize("name", SLOW)
def test_acceleration_changes_nothing_but_the_way(name):
    backend, model = PLANNERS[name][0], slow_world(name)
    fast, plain = (slower(backend, accelerate=choice).run(model) for choice in (True, False))
    assert fast.status is plain.status is Status.SUCCESS
    assert plain.details["newton_steps"] == 0
    assert fast.details["steps"] <= plain.details["steps"]
    if name not in ("best", "worst"):  # which fall at once, and settle in a step
        assert plain.details["steps"] > 350
        assert fast.details["newton_steps"] > 0
        assert fast.details["steps"] < 250
    size = max(1.0, float(plain.values.abs().max()))
    for field in ("values", "q_values"):
        assert torch.allclose(getattr(fast, field), getattr(plain, field), rtol=0, atol=2.2e-10 * size), field
    assert torch.allclose(fast.action_probs, plain.action_probs, atol=1e-9)
    for field in ("elbo", "believed_return", "luck", "policy_divergence", "policy_entropy"):
        assert float(getattr(fast, field)) == pytest.approx(float(getattr(plain, field)), abs=1e-8), field


@pytest.mark.parametrize("discount", [0.9999, 0.999999])
@pytest.mark.parametrize("name", ["variational", "value-iteration", "boltzmann"])
def test_patience_is_exact_with_acceleration(name, discount):
    """One action: the values solve (1 - gamma P) v = r."""
    rng = np.random.default_rng(1)
    moves, reward = rng.dirichlet(np.ones(4), size=4), rng.normal(size=4)
    model = TrajectoryModel(MDP(moves[:, None, :], np.ones(4) / 4), reward[:, None], INF, discount=discount)
    got = PLANNERS[name][0].run(model)
    want = np.linalg.solve(np.eye(4) - discount * moves, reward)
    assert got.status is Status.SUCCESS
    assert np.abs(got.values[0].numpy() - want).max() <= 1e-9 * max(1.0, np.abs(want).max())


def test_hard_control_is_that_of_policy_iteration():
    """Howard's algorithm in numpy."""
    for seed in range(5):
        world = World(seed + 40, -1.0, discount=0.95)
        expected = (world.moves * world.rewards).sum(-1)
        policy = np.zeros(4, dtype=int)
        while True:
            here = world.moves[range(4), policy]
            values = np.linalg.solve(np.eye(4) - 0.95 * here, expected[range(4), policy])
            better = (expected + 0.95 * world.moves @ values).argmax(-1)
            if (better == policy).all():
                break
            policy = better
        got = ValueIteration().run(world.model)
        assert got.action_probs[0].argmax(-1).tolist() == policy.tolist()
        assert np.allclose(got.values[0].numpy(), values, atol=1e-9 * np.abs(values).max())
        assert float(got.believed_return) == pytest.approx(world.start @ values, rel=1e-9)
        outcome = cai.evaluate(cai.extract_policy(got), world.model, num_rollouts=2)
        assert outcome.expected_return == pytest.approx(world.start @ values, rel=1e-9)


# ---- rates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("discount", [0.5, 0.9])
def test_fixed_dynamics_contract_by_the_discount_at_every_step(name, discount):
    """Haarnoja 2017, appendix A.2: the soft backup contracts in the maximum norm."""
    for sign in (-1.0, 1.0):
        world = World(31, sign, discount=discount)
        got = slower(PLANNERS[name][0], accelerate=False).run(world.model)
        changes = got.details["changes"]
        assert got.details["rate"] == discount
        assert len(changes) == got.details["steps"]
        rounding = 1e-14 * max(1.0, float(got.values.abs().max()))
        assert all(b <= discount * a + rounding for a, b in itertools.pairwise(changes))
        # So the error left is known: the last change times gamma / (1 - gamma).
        error = float(np.abs(got.values[0].numpy() / world.alpha - world.settled(0.0, PLANNERS[name][2])).max())
        assert error <= changes[-1] * discount / (1 - discount) + rounding


@pytest.mark.parametrize("discount", [1.0, 0.9])
def test_exact_messages_settle_at_the_spectral_radius(discount):
    for seed in range(4):
        world = World(seed + 60, -1.0, discount=discount, terminal=True)
        model = world.model
        got = SumProduct(accelerate=False, tolerance=1e-12).run(model)
        inside = world.nonterminal[:, None] & world.nonterminal
        matrix = (world.prior[..., None] * world.moves * np.exp(world.rewards / world.alpha)).sum(1) * inside
        radius = discount * np.abs(np.linalg.eigvals(matrix)).max()
        assert got.details["rate"] == pytest.approx(radius, rel=1e-12)
        changes = got.details["changes"]
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(changes))  # never enlarged
        middle = [(a, b) for a, b in itertools.pairwise(changes) if 1e-10 < a < 1e-6]
        assert all(b / a == pytest.approx(radius, rel=0.02, abs=1e-3) for a, b in middle[-3:]), seed
        assert middle


@pytest.mark.parametrize("eta", [-3.0, -0.3, 0.4, 3.0])
def test_no_backup_enlarges_the_largest_change(eta):
    for seed in range(2):
        world = World(seed + 70, sign_for(eta))
        changes = RiskSensitive(eta, accelerate=False).run(world.model).details["changes"]
        assert all(b <= a * (1 + 1e-12) + 1e-14 for a, b in itertools.pairwise(changes))


# ---- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "accelerate"),
    [(name, True) for name in ("exact", "variational", "value-iteration", "boltzmann", "risk -0.3", "risk 0.4")]
    + [(name, False) for name in ("exact", "risk -0.3")],
)
def test_gradients_are_those_of_differences(name, accelerate):
    """Through elbo (and log_evidence and start where there is one), in every reward; acceleration plays no part."""
    backend = slower(PLANNERS[name][0], accelerate=accelerate, tolerance=1e-13)
    model = slow_world(name).replace(
        discount=0.95 if accelerate else 0.8
    )  # more backups than Newton waits for, or less
    table = model.reward.table

    def bound(values):
        got = backend.run(model.replace(reward=TableReward(values)))
        assert got.status.ok
        assert got.log_evidence is None or torch.equal(got.log_evidence, got.elbo)
        return got.elbo

    leaf = table.clone().requires_grad_()
    (slope,) = torch.autograd.grad(bound(leaf), leaf)
    assert torch.isfinite(slope).all()
    for index in [(2, 1)]:
        step = torch.zeros_like(table)
        step[index] = 1e-4
        with torch.no_grad():
            numeric = float(bound(table + step) - bound(table - step)) / 2e-4
        assert float(slope[index]) == pytest.approx(numeric, rel=1e-6, abs=1e-6), index


def test_gradients_in_the_dynamics_of_the_evidence():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    reward = -torch.rand(3, 2, generator=generator, dtype=torch.float64)

    def bound(values, backend):
        mdp = MDP(values.softmax(-1), [0.5, 0.3, 0.2])
        return backend.run(TrajectoryModel(mdp, TableReward(reward), INF, discount=0.95)).elbo

    for backend in (SumProduct(tolerance=1e-13), slower(VARIATIONAL, tolerance=1e-13)):
        (slope,) = torch.autograd.grad(bound(logits, backend), logits)
        for index in [(0, 0, 0), (1, 1, 2), (2, 0, 1)]:
            step = torch.zeros_like(logits)
            step[index] = 1e-4
            with torch.no_grad():
                numeric = float(bound(logits + step, backend) - bound(logits - step, backend)) / 2e-4
            assert float(slope[index]) == pytest.approx(numeric, rel=1e-6, abs=1e-6), (backend.name, index)


# ---- what settles late -------------------------------------------------------------------------------------------


def waiting_room(fee=30.0, wait=0.05, discount=1.0):
    """Waiting costs little, leaving costs a lot: values fall by the same, step after step, until leaving is cheaper."""
    mdp = MDP([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]] * 2], [1.0, 0.0], terminal=[1])
    return TrajectoryModel(mdp, [[-wait, -fee], [0.0, 0.0]], horizon=INF, discount=discount)


@pytest.mark.parametrize("name", [name for name in PLANNERS if name != "exact"])
def test_a_constant_fall_is_not_the_end_of_the_world(name):
    """A deterministic world without a discount, in which eta plays no part: all soft answers are `exact`'s."""
    # Once: values that change by the same at steps 4 and 8 are taken to diverge.
    backend, _, hard = PLANNERS[name]
    want = -30.0 if hard else float(SumProduct().run(waiting_room()).log_evidence)
    got = backend.run(waiting_room())
    assert got.status is Status.SUCCESS
    assert float(got.values[0, 0]) == pytest.approx(want, rel=1e-9)
    if name == "variational":
        assert float(got.elbo) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("eta", [-1.0, -3.0])
def test_a_way_out_of_what_would_diverge(eta):
    """Waiting for ever is worth -inf to this caution, and leaving -100: finite horizons show what it settles at."""

    model = waiting_room(fee=100.0, wait=1.0, discount=0.9)
    want, later = (float(RiskSensitive(eta).run(model.replace(horizon=n)).values[0, 0]) for n in (150, 160))
    assert want == pytest.approx(later, rel=1e-12)
    got = RiskSensitive(eta).run(model)
    assert got.status is Status.SUCCESS
    assert float(got.values[0, 0]) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("name", ["variational", "value-iteration", "best", "worst", "risk -3", "risk 3", "exact"])
def test_where_every_policy_ends_rewards_may_have_any_sign(name):
    """A corridor of which each step pays."""
    size = 6
    moves = np.zeros((size, 2, size))
    for state in range(size - 1):
        moves[state, 0, state + 1] = moves[state, 1, min(state + 2, size - 1)] = 1
    moves[-1, :, -1] = 1
    reward = np.array([[1.0, 0.5]] * (size - 1) + [[0.0, 0.0]])
    model = TrajectoryModel(MDP(moves, np.eye(size)[0], terminal=[size - 1]), reward, horizon=INF)
    got, want = PLANNERS[name][0].run(model), PLANNERS[name][0].run(model.replace(horizon=size))
    assert got.status is Status.SUCCESS
    assert torch.allclose(got.values[0], want.values[0], atol=1e-9)
    assert float(got.elbo) == pytest.approx(float(want.elbo), abs=1e-9)


# ---- divergence, and its edge ------------------------------------------------------------------------------------


def alone(reward, discount):
    return TrajectoryModel(MDP([[[1.0]]], [1.0]), reward, horizon=INF, discount=discount)


def edge(distance, eta, discount=0.5):
    """One state: e^{eta v} = m e^{eta v} + (1 - gamma) e^{eta r} with m = gamma e^{eta r} = 1 - distance."""
    reward = (math.log1p(-distance) - math.log(discount)) / eta
    growth = discount * math.exp(eta * reward)
    value = None if distance <= 0 else math.log((1 - discount) * math.exp(eta * reward) / (1 - growth)) / eta
    return alone(reward, discount), value


def says_diverged(got):
    assert got.status is Status.DIVERGED
    assert got.values is got.q_values is got.elbo is got.log_evidence is got.believed_return is got.luck is None
    assert torch.equal(got.action_probs[0], got.action_prior)
    holds_no_nan(got)
    with pytest.raises(ValueError, match=r"holds no policy: diverged"):
        cai.extract_policy(got)


ETAS = [-3.0, -1.0, -0.3, 0.3, 1.0, 3.0]


@pytest.mark.parametrize("accelerate", [True, False])
@pytest.mark.parametrize("eta", [*ETAS, -INF, INF])
def test_growth_without_end_is_a_status_and_soon(eta, accelerate):
    """Rewards for the optimist, costs for the pessimist, that outrun the discount."""
    sign = 1.0 if eta > 0 else -1.0
    rng = np.random.default_rng(3)
    moves = rng.dirichlet(np.ones(6), size=(6, 2))
    for size in (1.0, 10.0, 1e4):
        reward = sign * size * (1 + rng.random((6, 2)))
        model = TrajectoryModel(MDP(moves, np.ones(6) / 6), reward, horizon=INF, discount=0.9)
        got = RiskSensitive(eta, accelerate=accelerate).run(model)
        says_diverged(got)
        assert got.details["steps"] <= 1024  # of a million that it may take
    if math.isinf(eta):
        says_diverged(ValueIteration("best" if eta > 0 else "worst", accelerate=accelerate).run(model))


@pytest.mark.parametrize("eta", [-1.0, 3.0, INF])
@pytest.mark.parametrize("cycle", [[3.0, -1.0], [5.0, -1.0, -1.0]], ids=str)
def test_growth_in_a_circle_diverges_too(eta, cycle):
    """One way round: no state ever changes by the same twice in a row, and all of them grow."""
    # Growth that is looked for in the last change alone is not found here, and a million backups are run.
    sign, size = (1.0 if eta > 0 else -1.0), len(cycle)
    moves = np.roll(np.eye(size), 1, axis=1)[:, None, :]
    model = TrajectoryModel(MDP(moves, np.eye(size)[0]), [sign * r for r in cycle], horizon=INF, discount=0.9)
    for backend in (
        RiskSensitive(eta, max_iterations=1000),
        *([ValueIteration("best", max_iterations=1000)] if eta == INF else []),
    ):
        says_diverged(backend.run(model))


@pytest.mark.parametrize("eta", [-3.0, -0.3, 1.0, 3.0])
@pytest.mark.parametrize(("distance", "accelerate"), [(-0.1, True), (-0.1, False), (-1e-2, True)])
def test_growth_next_to_the_edge_diverges(eta, distance, accelerate):
    says_diverged(RiskSensitive(eta, accelerate=accelerate, max_iterations=3000).run(edge(distance, eta)[0]))


@pytest.mark.parametrize("eta", [-3.0, 0.3])
@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-6, 1e-9])
def test_what_settles_next_to_the_edge_is_not_called_diverged(eta, distance):
    model, want = edge(distance, eta)
    got = RiskSensitive(eta).run(model)
    assert got.status is Status.SUCCESS
    # The distance itself is only known to 1e-16, and the change of a value v by a backup to the rounding of v.
    slack = 1e-9 * max(1.0, abs(want)) + 4e-16 / distance / abs(eta) + 2 * math.ulp(want) / distance
    assert float(got.values[0, 0]) == pytest.approx(want, abs=slack)


@pytest.mark.parametrize(
    ("distance", "discount", "eta"),
    [
        (0.0, 0.5, -1.0),
        (0.0, 0.9, 2.0),
        (-1e-12, 0.8, 0.5),
        (-1e-10, 0.99, -1.0),
        (-1e-9, 0.8, 1.8),
        (-1e-5, 0.5, 1.8),
        (-0.1466, 0.9, 1.8),
        (-0.15, 0.8, -1.0),
    ],
)
def test_no_number_comes_out_of_what_has_none(distance, discount, eta):
    """On the edge and beyond values grow like log n and faster: anything but success, and in finite time."""
    # Newton steps can throw such values far out, where every change is small beside their size.
    got = RiskSensitive(eta, max_iterations=300).run(edge(distance, eta, discount)[0])
    assert got.status in (Status.DIVERGED, Status.NOT_CONVERGED)
    holds_no_nan(got)


@pytest.mark.parametrize("backend", [SumProduct(), RiskSensitive(1.0)], ids=["exact", "risk"])
@pytest.mark.parametrize("distance", [1e-6, 1e-9])
def test_exact_messages_next_to_the_edge(backend, distance):
    model, want = edge(distance, 1.0)
    got = backend.run(model)
    assert got.status is Status.SUCCESS
    slack = 1e-9 * max(1.0, abs(want)) + (4e-16 + 2 * math.ulp(want)) / distance
    assert float(got.values[0, 0]) == pytest.approx(want, abs=slack)


@pytest.mark.parametrize("eta", [-3.0, -1.0])
@pytest.mark.parametrize("factor", [0.7, 0.99, 1.01, 2.0])
def test_caution_over_a_geometric_time(eta, factor):
    """Without a discount: each step costs c and the end comes with 1 - p, e^{-eta c} p = factor decides."""
    p = 0.6
    cost = math.log(factor / p) / -eta
    mdp = MDP([[[p, 1 - p]], [[0.0, 1.0]]], [1.0, 0.0], terminal=[1])
    got = RiskSensitive(eta).run(TrajectoryModel(mdp, [-cost, 0.0], horizon=INF))
    if factor > 1:
        says_diverged(got)
    else:
        want = math.log((1 - p) * math.exp(-eta * cost) / (1 - factor)) / eta
        assert got.status is Status.SUCCESS
        assert float(got.values[0, 0]) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("eta", [-2.0, 1.0, 2.0])
def test_a_sweep_is_monotone_until_it_diverges(eta):
    """-inf < ... < diverged: what has an answer lies between what has one too."""

    model = alone(0.2 if eta >= 0 else -0.2, 0.8)
    ladder = [eta + x for x in (-0.2, -0.1, 0.0, 0.1)]
    found = [RiskSensitive(x).run(model) for x in ladder]
    values = [float(got.values[0, 0]) if got.status.ok else None for got in found]
    for x, value in zip(ladder, values, strict=True):
        assert (value is not None) is (0.8 * math.exp(x * float(model.reward_table(0).flatten()[0])) < 1), x
    known = [value for value in values if value is not None]
    assert known == sorted(known)


def test_a_loop_that_costs_nothing_is_a_status():
    """Waiting is free, so the best of all is to wait for ever: visits have no number, whatever the values."""
    # Once: `run` raises a ValueError of `expected_visits`, which is no refusal and no status.
    got = ValueIteration("best").run(waiting_room(fee=1.0, wait=0.0))
    assert got.status in (Status.DIVERGED, Status.SUCCESS)
    holds_no_nan(got)
    # The values are those of all finite horizons, but waiting is not what the prior would do, at every step for ever.
    assert got.values[0].tolist() == [0.0, 0.0]
    assert float(got.policy_divergence) == INF
    assert float(got.elbo) == -INF


# ---- statuses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANNERS)
def test_what_stops_early_says_so(name):
    backend, eta, _ = PLANNERS[name]
    world = World(80, sign_for(eta), discount=0.99)
    got = slower(backend, max_iterations=1).run(world.model)
    assert got.details["steps"] == 1
    if eta == 1 or name == "best":  # sums over paths are one linear system; the policy to begin with is the best
        assert got.status is Status.SUCCESS
        assert torch.allclose(got.values, backend.run(world.model).values, rtol=1e-12)
        return
    assert got.status is Status.NOT_CONVERGED
    assert got.values is not None
    assert got.elbo is None
    holds_no_nan(got)
    with pytest.raises(cai.inference.InferenceError, match=r"not converged.*raise max_iterations"):
        cai.infer(world.model, slower(backend, max_iterations=1))


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("discount", [0.9, 1.0])
def test_what_cannot_be_and_what_cannot_be_avoided(name, discount):
    """From state 0 by halves to the end or to state 1, where everything is forbidden."""
    mdp = MDP([[[0.0, 0.5, 0.5]] * 2, [[0.0, 0.0, 1.0]] * 2, [[0.0, 0.0, 1.0]] * 2], [1.0, 0.0, 0.0], terminal=[2])
    backend, eta, _ = PLANNERS[name]
    model = TrajectoryModel(mdp, [-1.0, -INF, 0.0], horizon=INF, discount=discount)
    got = backend.run(model)
    if eta > 0:
        assert got.status is Status.SUCCESS
        holds_no_nan(got)
    else:
        assert got.status is Status.UNAVOIDABLE
        assert float(got.elbo) == -INF
        assert float(got.values[0, 0]) == -INF
    got = backend.run(model.replace(reward=[-INF, -1.0, 0.0]))
    assert got.status is Status.IMPOSSIBLE
    assert float(got.elbo) == -INF
    assert torch.equal(got.action_probs[0, 0], got.action_prior[0])
    holds_no_nan(got)


@pytest.mark.parametrize("name", ["variational", "value-iteration", "boltzmann", "risk -0.3"])
def test_what_diverges_elsewhere_does_not_make_the_impossible_unavoidable(name):
    """State 0, the start, is forbidden and never left; state 1 pays, out of reach."""
    # Once: the exact messages, which decide between the two, stop at once when rho >= 1, with evidence 0.
    model = TrajectoryModel(MDP([[[1.0, 0.0]], [[0.0, 1.0]]], [1.0, 0.0]), [-INF, 5.0], horizon=INF, discount=0.9)
    assert PLANNERS[name][0].run(model).status is Status.IMPOSSIBLE


@pytest.mark.parametrize("name", PLANNERS)
def test_a_trap_is_no_answer(name):
    """Without a discount, a nonterminal state from which the end cannot be reached."""
    mdp = MDP([[[0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]], [1.0, 0.0, 0.0], terminal=[2])
    got = PLANNERS[name][0].run(TrajectoryModel(mdp, [-1.0, -1.0, 0.0], horizon=INF))
    says_diverged(got)


def test_the_bridge_for_ever():
    """The zoo's example, by every recursion: a policy that can be run, and bounds in their order."""
    model = bridge(slip=0.1, horizon=INF, discount=0.95)
    evidence = float(SumProduct().run(model).log_evidence)
    best = float(VARIATIONAL.run(model).elbo)
    assert best <= evidence
    for name in ("value-iteration", "boltzmann", "risk -0.3", "risk 0.4"):
        got = PLANNERS[name][0].run(model)
        assert got.status is Status.SUCCESS, name
        outcome = cai.evaluate(cai.extract_policy(got), model, num_rollouts=2)
        attained = outcome.expected_return / model.temperature - float(got.policy_divergence)
        if float(got.luck) == 0:
            assert attained == pytest.approx(float(got.elbo), abs=1e-8), name
            assert attained <= best + 1e-9
        assert float(got.elbo) <= evidence + 1e-9


def test_growth_that_comes_round_a_long_circle_is_shown():
    """999 states in a circle: 500 gain and 499 lose, in the mean .25 nats a step."""
    following = ((np.arange(999) + 1) % 999)[:, None, None]
    mdp = MDP.from_successors(following, np.ones((999, 1, 1)), np.eye(999)[0])
    reward = np.where(np.arange(999) < 500, 1.0, -0.5)
    for discount, status in (
        (0.9, Status.DIVERGED),
        (0.75, Status.SUCCESS),
    ):
        model = TrajectoryModel(mdp, reward, math.inf, discount=discount)
        assert cai.infer(model, "exact", throw=False).status is status


def test_values_that_fall_for_ever_by_little_a_step_are_found_out():
    """With caution a cost of 2^-11 nats in state 0 outweighs an end of 2^-40 a step; other states are hardly left."""
    often = [
        [[0, 30064771072, 12884901888, 124554051584, 0], [0, 0, 4194304, 15728640, 13631488]],
        [[6, 0, 8, 0, 20], [56, 0, 42, 20, 0]],
        [[2147483648, 5100273664, 0, 536870912, 268435456]] * 2,
        [[2560, 1280, 256, 0, 5376], [2555904, 0, 0, 0, 1507328]],
        [[1179648, 3014656, 2228224, 1966080, 0], [0, 0, 0, 687194767360, 0]],
    ]
    chances = np.array(often) / 2**44
    chances += np.eye(5)[:, None] * (1 - chances.sum(-1))[..., None]
    reward = np.zeros((5, 2))
    reward[0, 1] = -(2.0**-11)
    prior = [[0.25, 0.75], [0.5, 0.5], [0.5, 0.5], [0.25, 0.75], [0.25, 0.75]]
    mdp = MDP(chances, [0, 0.5, 0.25, 0, 0.25], axes="state-action-state")
    model = TrajectoryModel(mdp, reward, math.inf, discount=1 - 2.0**-40, action_prior=prior)
    found = cai.infer(model, "risk", eta=-1.0, throw=False, max_iterations=20_000)
    assert found.status is Status.DIVERGED
    assert found.details["steps"] < 1000
