"""The dial of risk: against its own recursion in decimal arithmetic, its dual, and its two soft ends."""

import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from functools import cache

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from oracle import moves, random_problem
from refusals import holds_no_nan

import cai
from cai.inference import Status, StructuredVariational, SumProduct
from cai.inference.backends.risk import RiskSensitive
from cai.inference.registry import backend_label, make_backend
from cai.models import MDP, TableReward, TrajectoryModel, bridge

INF = math.inf
NOTHING = Decimal("-Infinity")
LADDER = [-1000.0, -10.0, -1.0, -0.1, -1e-6, -1e-9, -1e-12, 0.0, 1e-12, 1e-9, 1e-6, 0.1, 1.0, 10.0, 1000.0]
MEASURES = ("elbo", "believed_return", "luck", "policy_divergence", "policy_entropy")


def close(left, right, tolerance=1e-9):
    left, right = float(left), float(right)
    return (
        left == right if math.isinf(left) or math.isinf(right) else abs(left - right) <= tolerance * max(1, abs(right))
    )


def tilted(problem, eta):
    """(v(t, s) -> (value, {action: q}), start) in nats, straight from the definition, with 50 digits."""
    lost = -math.log10(abs(eta)) if 0 < abs(eta) < 1 else 0.0
    context = Context(prec=50 + 2 * math.ceil(lost), Emin=MIN_EMIN, Emax=MAX_EMAX)

    def equivalent(pairs):
        whole = sum(p for p, _ in pairs)
        kept = [(p, x) for p, x in pairs if x != NOTHING]
        if not kept or (eta <= 0 and len(kept) < len(pairs)):
            return NOTHING
        if eta == 0:
            return sum(p * x for p, x in kept) / whole
        worth = [x for _, x in kept]
        extreme = max(worth) if eta > 0 else min(worth)
        if math.isinf(eta):
            return extreme
        tilt = Decimal(eta)
        return extreme + (sum(p * (tilt * (x - extreme)).exp() for p, x in kept) / whole).ln() / tilt

    @cache
    def value(t, state):
        if state is None or t == problem.horizon or problem.terminal[state]:
            return Decimal(0), {}
        rows, priors = {}, {}
        for action, prior, following, probability, reward, _ in moves(problem, state, t):
            rho = NOTHING if reward == -INF else Decimal(reward) / Decimal(problem.temperature)
            after = value(t + 1, following)[0]
            rows.setdefault(action, []).append((Decimal(probability), rho + after))
            priors[action] = Decimal(prior)
        scores = {action: equivalent(pairs) for action, pairs in rows.items()}
        hopes = [(priors[a], q) for a, q in scores.items() if q != NOTHING]
        if not hopes:
            return NOTHING, scores
        best = max(q for _, q in hopes)
        return best + sum(p * (q - best).exp() for p, q in hopes).ln(), scores

    def within(t, state):
        with localcontext(context):
            return value(t, state)

    with localcontext(context):
        start = equivalent([(Decimal(p), value(0, s)[0]) for s, p in enumerate(problem.initial) if p > 0])
    return within, start


def of_floats(eta, values, weights):
    """Probabilities proportional to weight times e^{eta value}; the weights where no value is finite."""
    if all(x == -INF for x in values) or eta == 0:
        return list(weights)
    sign, pairs = (1.0 if eta > 0 else -1.0), list(zip(values, weights, strict=True))
    shift = max(sign * x for x, w in pairs if w > 0 and x > -INF)
    raw = [w * math.exp(abs(eta) * (sign * x - shift)) if x > -INF else 0.0 for x, w in pairs]
    return [x / sum(raw) for x in raw]


class Game:
    """The dual in plain Python: a policy, and a nature that bends start and dynamics and pays KL / eta for it."""

    def __init__(self, problem, eta):
        self.problem, self.eta = problem, eta
        value, _ = tilted(problem, eta)
        self.policy, self.nature = {}, {}
        for t in range(problem.horizon):
            for state in range(problem.num_states):
                if problem.terminal[state]:
                    continue
                v, scores = value(t, state)
                weights = {a: problem.prior[state][a] * math.exp(q - v) for a, q in scores.items() if q != NOTHING}
                self.policy[t, state] = {a: w / sum(weights.values()) for a, w in weights.items()}
                for action in scores:
                    outcomes = self.outcomes(t, state, action)
                    worth = [r / problem.temperature + float(value(t + 1, n)[0]) for n, _, r in outcomes]
                    self.nature[t, state, action] = of_floats(eta, worth, [p for _, p, _ in outcomes])
        self.start = of_floats(eta, [float(value(0, s)[0]) for s in range(problem.num_states)], problem.initial)

    def outcomes(self, t, state, action):
        return [(n, p, r) for a, _, n, p, r, _ in moves(self.problem, state, t) if a == action]

    def bent(self, rng, size):
        """A copy whose nature has moved at random, within what is possible."""
        other = object.__new__(Game)
        other.problem, other.eta, other.policy = self.problem, self.eta, self.policy

        def shake(row):
            raw = np.array(row) * np.exp(size * rng.normal(size=len(row)))
            return list(raw / raw.sum())

        other.nature = {key: shake(row) for key, row in self.nature.items()}
        other.start = shake(self.start)
        return other

    def other_policy(self, rng, size):
        """A copy whose policy has moved at random."""
        other = object.__new__(Game)
        other.__dict__.update(self.__dict__)
        other.policy = {}
        for key, row in self.policy.items():
            raw = {a: p * math.exp(size * rng.normal()) for a, p in row.items()}
            other.policy[key] = {a: p / sum(raw.values()) for a, p in raw.items()}
        return other

    def play(self):
        """(believed return in reward units, KL of the policy, luck) of the two against each other."""
        problem, here = self.problem, dict(enumerate(self.start))
        returns = divergence = 0.0
        luck = sum(q * math.log(q / p) for q, p in zip(self.start, problem.initial, strict=True) if q > 0)
        for t in range(problem.horizon):
            after = {}
            for state, weight in here.items():
                if weight == 0 or problem.terminal[state]:
                    continue
                for action, chance in self.policy[t, state].items():
                    if chance > 0:
                        divergence += weight * chance * math.log(chance / problem.prior[state][action])
                    rows = zip(self.outcomes(t, state, action), self.nature[t, state, action], strict=True)
                    for (following, probability, reward), q in rows:
                        if q == 0 or chance == 0:
                            continue
                        mass = weight * chance * q
                        returns += mass * reward
                        luck += mass * math.log(q / probability)
                        if following is not None:
                            after[following] = after.get(following, 0.0) + mass
            here = after
        return returns, divergence, luck

    def worth(self):
        returns, divergence, luck = self.play()
        return returns / self.problem.temperature - divergence - luck / self.eta


# ---- the soft ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("eta", "backend"), [(1, SumProduct()), (0, StructuredVariational())], ids=["one", "zero"])
@over_seeds(range(40), quick=10)
def test_one_is_exact_and_zero_is_variational(eta, backend, seeds):
    for seed in seeds:
        model = random_problem(seed + 100).model
        want, got = backend.run(model), RiskSensitive(eta).run(model)
        assert got.status is want.status, seed
        for name in ("values", "q_values", "action_probs", "initial", "state_marginals", "absorbed"):
            assert torch.allclose(getattr(got, name), getattr(want, name), rtol=1e-12, atol=1e-12), (seed, name)
        for t in range(model.steps):
            assert torch.allclose(got.dynamics(t), want.dynamics(t), rtol=1e-12, atol=1e-12), seed
        if want.status.ok:
            for name in MEASURES:
                assert close(getattr(got, name), getattr(want, name), 1e-12), (seed, name)
            assert close(got.details["start"], want.elbo, 1e-12)


@pytest.mark.parametrize("eta", [-2.0, -1e-6, 1e-6, 1.0, 3.0])
@over_seeds(range(15), quick=5)
def test_eta_does_not_matter_in_a_deterministic_world(eta, seeds):
    for seed in seeds:
        model = random_problem(seed + 200, deterministic=True, discount=1.0).model
        want, got = SumProduct().run(model), RiskSensitive(eta).run(model)
        assert got.status is want.status
        assert torch.allclose(got.values, want.values, atol=1e-9), seed
        assert want.status is Status.IMPOSSIBLE or abs(float(got.luck)) <= 1e-12


# ---- the recursion, on a hundred problems ------------------------------------------------------------------------


def agrees(problem, got, value, where):
    """Holds values, q-values and policy against the recursion."""
    for t in range(problem.horizon):
        for state in range(problem.num_states):
            v, scores = value(t, state)
            assert close(got.values[t, state] / problem.temperature, v), (where, t, state)
            row = got.action_probs[t, state].tolist()
            assert math.fsum(row) == pytest.approx(1, abs=1e-12)
            for action, q in scores.items():
                assert close(got.q_values[t, state, action] / problem.temperature, q), (where, t, state)
                if v != NOTHING:
                    chance = 0.0 if q == NOTHING else problem.prior[state][action] * math.exp(q - v)
                    # The policy holds differences of q, which are as large as q is rounded.
                    assert row[action] == pytest.approx(chance, abs=1e-9), (where, t, state)


@over_seeds(range(400, 500), quick=25)
def test_the_sweep_is_the_recursion_and_never_falls(seeds):
    for seed in seeds:
        problem = random_problem(seed)
        forbids = any(-INF in r for rows in problem.outcomes for row in rows for _, _, r in row)
        before = None
        for eta in LADDER:
            got = RiskSensitive(eta).run(problem.model)
            value, start = tilted(problem, eta)
            assert not got.values.isnan().any()
            assert not got.q_values.isnan().any()
            assert forbids or (torch.isfinite(got.values).all() and got.status.ok), (seed, eta)
            if got.status.ok:
                assert close(got.details["start"], start), (seed, eta)
            else:
                assert start == NOTHING, (seed, eta)
            if seed % 2 == 0 or eta in (-1.0, 1e-9, 10.0):  # the rest is held by its start, and by the order
                agrees(problem, got, value, (seed, eta))
            if before is not None:
                size = torch.where(torch.isfinite(before), before.abs(), torch.zeros(()).double()).clamp(min=1)
                assert (got.values >= before - 1e-9 * size).all(), (seed, eta)
            before = got.values


@pytest.mark.parametrize("discount", [1.0, 0.8])
@over_seeds(range(20), quick=7)
def test_the_ends_of_the_sweep_are_the_extremes(discount, seeds):
    for seed in seeds:
        problem = random_problem(seed + 600, discount=discount)
        for eta in (-INF, INF):
            got = RiskSensitive(eta).run(problem.model)
            value, start = tilted(problem, eta)
            assert got.status.ok is (start != NOTHING)
            for t in range(problem.horizon):
                for state in range(problem.num_states):
                    assert close(got.values[t, state] / problem.temperature, value(t, state)[0]), (seed, eta)
            holds_no_nan(got)


# ---- the dual ----------------------------------------------------------------------------------------------------

TILTS = [-10.0, -1.0, -0.1, -1e-3, 1e-3, 0.5, 1.0, 3.0, 10.0]


@pytest.mark.parametrize("eta", TILTS)
def test_what_is_believed_is_the_tilted_world(eta):
    for seed in range(10):
        problem = random_problem(seed + 700)
        got = RiskSensitive(eta).run(problem.model)
        if not got.status.ok:
            continue
        game = Game(problem, eta)
        returns, divergence, luck = game.play()
        assert np.allclose(got.initial.numpy(), game.start, atol=1e-9), seed
        assert close(got.believed_return, returns), seed
        assert close(got.policy_divergence, divergence), seed
        assert close(got.luck, luck), seed
        assert close(got.elbo, returns / problem.temperature - divergence - luck), seed
        for (t, state, action), row in game.nature.items():
            want = np.zeros(problem.num_states)
            for (following, _, _), q in zip(game.outcomes(t, state, action), row, strict=True):
                if following is not None:
                    want[following] += q
            # Where nothing can be hoped for the row cannot matter.
            if math.isfinite(float(got.q_values[t, state, action])):
                assert np.allclose(got.dynamics(t)[state, action].numpy(), want, atol=1e-9), (seed, t, state, action)


@pytest.mark.parametrize("eta", [-10.0, -1.0, -1e-3, -1e-6, 1e-6, 0.5, 3.0])
@over_seeds(range(15), quick=5)
def test_the_start_is_worth_what_the_dual_says(eta, seeds):
    for seed in seeds:
        model = random_problem(seed + 800).model
        got = RiskSensitive(eta).run(model)
        if got.status.ok:
            dual = got.believed_return / model.temperature - got.policy_divergence - got.luck / eta
            assert close(got.details["start"], dual), seed
            assert float(got.luck) >= 0
            assert float(got.elbo) <= float(SumProduct().run(model).elbo) + 1e-9


@pytest.mark.parametrize("eta", TILTS)
@over_seeds(range(12), quick=4)
def test_nobody_gains_by_moving_alone(eta, seeds):
    """Nature maximises for eta > 0 and minimises for eta < 0; the policy always maximises."""
    rng = np.random.default_rng(0)
    for seed in seeds:
        problem = random_problem(seed + 900)
        got = RiskSensitive(eta).run(problem.model)
        if not got.status.ok:
            continue
        game, start = Game(problem, eta), float(got.details["start"])
        assert close(game.worth(), start), seed
        slack = 1e-9 * max(1.0, abs(start))
        for size in (1e-3, 0.1, 1.0, 3.0) * 2:
            moved = game.bent(rng, size).worth()
            assert (moved <= start + slack) if eta > 0 else (moved >= start - slack), (seed, size)
            assert game.other_policy(rng, size).worth() <= start + slack, (seed, size)


# ---- near zero ---------------------------------------------------------------------------------------------------


def one_way(moves, reward, horizon, **options):
    """One action, start in state 0."""
    table = torch.tensor(moves, dtype=torch.float64)[:, None, :]
    rewards = torch.tensor(reward, dtype=torch.float64)
    rewards = rewards[:, None, :] if rewards.dim() == 2 else rewards[:, None]
    start = torch.eye(len(table), dtype=torch.float64)[0]
    return TrajectoryModel(MDP(table, start), TableReward(rewards), horizon=horizon, **options)


def coin(steps=1):
    """Each step earns 1 or -1, as a fair coin says: V(eta) = T log cosh(eta) / eta."""
    return one_way([[0.5, 0.5], [0.5, 0.5]], [[1.0, -1.0], [1.0, -1.0]], steps), steps * 1.0


def loaded():
    """3 with probability 1/4, else -1."""
    return one_way([[0.25, 0.75], [0.0, 1.0]], [[3.0, -1.0], [0.0, 0.0]], 1), 3.0


def fall(discount=0.5, prize=4.0):
    """A sure step at the price that the prize after it is worth: the one thing uncertain is the fall."""
    model = one_way([[0.0, 1.0], [0.0, 1.0]], [-discount * prize, prize], 2, discount=discount)
    return model, discount * (1 - discount) * prize**2


# name: ((model, variance), third cumulant, the largest number beside which a message is rounded on its way)
BALANCED = {
    "coin": (coin(), 0.0, 0.0),
    "coins": (coin(4), 0.0, 1.0),
    "loaded": (loaded(), 6.0, 0.0),
    "fall": (fall(), 0.0, 4.0),
    "skewed fall": (fall(0.75, 2.0), 0.75 * 0.25 * (1 - 1.5) * 8.0, 2.0),
}


@pytest.mark.parametrize("name", BALANCED)
@pytest.mark.parametrize("eta", [1e-12, -1e-12, 1e-9, -1e-9, 1e-6, -1e-6])
def test_beside_a_value_of_zero_half_the_variance_shows(name, eta):
    """V(eta) = eta var / 2 + O(eta^2) where V(0) is 0 without rounding."""
    # Once, as in test_numerics, in single steps: 4 to 7 digits at |eta| <= 1e-9.
    (model, variance), third, beside = BALANCED[name]
    assert float(RiskSensitive(0).run(model).details["start"]) == 0.0
    got = float(RiskSensitive(eta).run(model).details["start"])
    want = eta * variance / 2 + eta**2 * third / 6
    slack = 1e-9 * abs(want) + 10 * abs(eta) ** 3 + 4 * 2.0**-52 * beside
    assert abs(got - want) <= slack


@over_seeds(range(25), quick=8)
def test_the_slope_at_zero_is_half_the_accumulated_variance(seeds):
    """d V(start) / d eta at 0, from oracle's own steps: variance over outcomes, falls and the start along q."""
    for seed in seeds:
        problem = random_problem(seed + 1000, forbidden=False)
        game, (value, _) = Game(problem, 0.0), tilted(problem, 0.0)

        def variance(pairs):
            mean = math.fsum(p * x for p, x in pairs)
            return math.fsum(p * (x - mean) ** 2 for p, x in pairs)

        states = range(problem.num_states)
        total = variance([(problem.initial[s], float(value(0, s)[0])) for s in states])
        here = dict(enumerate(problem.initial))
        for t in range(problem.horizon):
            after = dict.fromkeys(states, 0.0)
            for state, weight in here.items():
                for action, chance in game.policy.get((t, state), {}).items():
                    pairs = []
                    for following, probability, reward in game.outcomes(t, state, action):
                        pairs.append((probability, reward / problem.temperature + float(value(t + 1, following)[0])))
                        if following is not None:
                            after[following] += weight * chance * probability
                    total += weight * chance * variance(pairs)
            here = after
        for step, slack in ((1e-3, 1e-4), (1e-6, 1e-8)):
            high, low = (float(RiskSensitive(sign * step).run(problem.model).details["start"]) for sign in (1, -1))
            # The third derivative, then the rounding of V over the step.
            assert (high - low) / (2 * step) == pytest.approx(total / 2, rel=slack, abs=slack + 1e-14 / step), seed


def test_a_little_optimism_about_what_is_forbidden():
    """As eta -> 0+, eta V tends to the log of the largest probability with which -inf can be avoided."""
    reward = torch.tensor([[[1.0, -INF]], [[1.0, 1.0]]], dtype=torch.float64)
    model = TrajectoryModel(MDP([[[0.5, 0.5]], [[0.25, 0.75]]], [0.5, 0.5]), TableReward(reward), horizon=6)
    low = high = 1.0
    for _ in range(6):
        low, high = 0.5 * low, 0.25 * low + 0.75 * high
    want = math.log(0.5 * (low + high))
    for eta in (1e-6, 1e-9, 1e-12, 1e-50, 1e-99, 1e-101, 1e-200, 1e-300):
        got = RiskSensitive(eta).run(model)
        # Once: the mean is taken of values that differ by 1 / eta.
        assert eta * float(got.details["start"]) == pytest.approx(want, rel=1e-9, abs=20 * eta), eta
        assert float(got.believed_return) == pytest.approx(6.0, rel=1e-9), eta
        assert float(got.luck) == pytest.approx(-want, rel=1e-9), eta


@pytest.mark.parametrize("eta", [0.0, -1e-300, -1e-12, -1.0, -INF])
def test_without_optimism_what_is_forbidden_is_unavoidable(eta):
    reward = torch.tensor([[[1.0, -INF]], [[1.0, 1.0]]], dtype=torch.float64)
    mdp = MDP([[[0.5, 0.5]], [[0.25, 0.75]]], [1.0, 0.0])
    for horizon, discount in ((3, 1.0), (3, 0.9), (INF, 0.9)):
        model = TrajectoryModel(mdp, TableReward(reward), horizon=horizon, discount=discount)
        got = RiskSensitive(eta).run(model)
        assert got.status is Status.UNAVOIDABLE
        assert "can rule out a reward of -inf" in str(got.status)
        assert float(got.elbo) == -INF
        holds_no_nan(got)


@pytest.mark.parametrize("eta", [-INF, -1.0, 0.0, 1e-12, 2.0, INF])
def test_what_is_impossible_is_impossible_at_any_eta(eta):
    for horizon, discount in ((2, 1.0), (2, 0.9), (INF, 0.9)):
        model = one_way([[1.0]], [-INF], horizon, discount=discount)
        got = RiskSensitive(eta).run(model)
        assert got.status is Status.IMPOSSIBLE
        assert float(got.elbo) == -INF
        assert got.action_probs.tolist() == model.action_prior.expand(model.steps, -1, -1).tolist()
        holds_no_nan(got)
        with pytest.raises(cai.inference.InferenceError, match=r"'risk'.*p\(O\) = 0.*look at the -inf rewards"):
            cai.infer(model, "risk", eta=eta)


# ---- far from zero -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [1e4, 1e6, 1e9, 1e12, 1e16, 1e18, 1e100, 1e300])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_large_eta_tends_to_the_extremes(eta, sign):
    # Once: e^{eta (worth - q)} is not normalised before luck is measured: 8 digits at 1e6, none at 1e16, NaN beyond.
    model = bridge(slip=0.2, horizon=6)
    got, limit = RiskSensitive(sign * eta).run(model), RiskSensitive(sign * INF).run(model)
    holds_no_nan(got)
    assert got.status is limit.status is Status.SUCCESS
    for name in ("values", "action_probs"):
        assert torch.allclose(getattr(got, name), getattr(limit, name), rtol=0, atol=100 / eta + 1e-9), name
    # Luck has no such limit: outcomes that tie at infinity differ by 1 / eta, and share by that.
    parts = got.believed_return / model.temperature - got.policy_divergence - got.luck / (sign * eta)
    assert float(parts) == pytest.approx(float(got.details["start"]), abs=1e-9)
    assert 0 <= float(got.luck) <= -6 * math.log(0.2 / 3)  # no step costs more than its least probable outcome
    assert torch.allclose(got.dynamics(2).sum(-1), torch.ones(()).double(), atol=1e-12)


@pytest.mark.parametrize("eta", [1e4, 1e6, 1e8])
@pytest.mark.parametrize("sign", [1, -1])
def test_luck_is_known_to_its_digits_at_a_large_eta(eta, sign):
    """Outcomes 1 / eta apart: their tilt is one of size 1 at any eta, and so is the luck."""

    gap = 2.0 ** -round(math.log2(eta))
    model = one_way([[0.25, 0.75], [0.0, 1.0]], [[1 + gap, 1.0], [0.0, 0.0]], 1)
    got = RiskSensitive(sign * eta).run(model)
    tilt = math.exp(sign * eta * gap)
    lucky = 0.25 * tilt / (0.25 * tilt + 0.75)
    want = lucky * math.log(lucky / 0.25) + (1 - lucky) * math.log((1 - lucky) / 0.75)
    assert got.dynamics(0)[0, 0].tolist() == pytest.approx([lucky, 1 - lucky], abs=1e-9)
    assert float(got.luck) == pytest.approx(want, rel=1e-9, abs=0)


@pytest.mark.parametrize("eta", [-1000.0, -1.0, 0.5, 1.0, 2.0, 1000.0])
@pytest.mark.parametrize("size", [1e4, 1e9])
def test_large_rewards_cost_no_digits(eta, size):
    """A penalty that is sure to be dodged by what eta believes: the rest of the answer is as exact as without it."""
    worst = -size if eta > 0 else size
    model = one_way([[0.5, 0.25, 0.25], [0, 1, 0], [0, 0, 1]], [[0.5, 0.25, worst], [0.0] * 3, [0.0] * 3], 1)
    got = float(RiskSensitive(eta).run(model).details["start"])
    terms = [0.5 * math.exp(eta * 0.25), 0.25]
    assert got == pytest.approx(0.25 + math.log(sum(terms)) / eta, rel=1e-12)


# ---- the door ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "eta", ["2", None, math.nan, True, 1j, torch.tensor(1.0), 10**400], ids=lambda eta: type(eta).__name__
)
def test_an_eta_that_is_no_number_is_refused(eta):
    # Once: OverflowError instead of a refusal.
    with pytest.raises(ValueError, match=r"eta is .*give a number: 1 is the exact posterior, 0 the true dynamics"):
        RiskSensitive(eta)


@pytest.mark.parametrize(
    ("text", "eta"),
    [("risk", -1.0), ("risk:eta=-2", -2), ("risk:eta=-inf", -INF), ("risk:eta=1e-3,tolerance=1e-6", 1e-3)],
)
def test_a_backend_is_written_with_its_options(text, eta):
    made = make_backend(text)
    assert made.eta == eta
    assert make_backend(backend_label(made).replace("(", ":").replace(")", "").replace(" ", "")) == made
    assert make_backend("risk:eta=3", eta=4).eta == 4


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("risk:eta", r"'eta' in backend 'risk:eta' is no option; write NAME:option=value"),
        ("risk:=2", "no option"),
        ("risk:eta=nan", "eta is nan"),
        ("risk:eta=true", "eta is True"),
        ("risk:eta=much", "eta is 'much'"),
        ("risk:aversion=2", r"'risk'.*aversion.*its options are: eta, tolerance, max_iterations, accelerate"),
        ("riks:eta=2", r"no backend is called 'riks' \(did you mean 'risk'\?\); known are .*risk"),
        ("risk:max_iterations=0", "max_iterations is 0; it must be >= 1"),
        ("risk:tolerance=0", "tolerance is 0; it must be > 0"),
    ],
)
def test_what_is_written_wrongly_is_refused(text, pattern):
    with pytest.raises(ValueError, match=pattern):
        make_backend(text)


def test_a_program_is_sent_elsewhere():
    with pytest.raises(
        ValueError, match=r"'risk'.*Pyro program.*'enumeration' \(eta = 1\) or 'variational' \(eta = 0\)"
    ):
        cai.infer(lambda: None, "risk")


def test_the_dial_on_the_bridge():
    """More caution, less real loss; more optimism, more belief."""
    model = bridge(slip=0.2, horizon=12)
    answers = [cai.infer(model, "risk", eta=eta) for eta in (-5.0, -1.0, 0.0, 1.0, 5.0)]
    believed = [float(answer.believed_return - answer.luck) for answer in answers]
    real = [cai.evaluate(cai.extract_policy(answer), model, num_rollouts=2).expected_return for answer in answers]
    starts = [float(answer.details["start"]) for answer in answers]
    assert starts == sorted(starts)
    assert real[0] > real[3] > real[4]
    assert float(answers[0].luck) < 1e-3
    assert len({round(x, 6) for x in believed}) == 5
