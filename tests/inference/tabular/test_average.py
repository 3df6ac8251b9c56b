"""The average criterion: its equation, its accounts per step, long finite horizons, and what it refuses."""

import json
import math

import mpmath
import numpy as np
import pytest
import torch

import cai
from cai.inference import Status
from cai.models import MDP, OutcomeReward, TableReward, TrajectoryModel, bridge
from tests.campaigns import each_seed

BACKENDS = {
    "exact": (1.0, False),
    "optimistic": (1.0, False),
    "variational": (0.0, False),
    "risk:eta=-1.5": (-1.5, False),
    "risk:eta=0.5": (0.5, False),
    "risk:eta=inf": (math.inf, False),
    "value-iteration": (0.0, True),
    "value-iteration:successors=best": (math.inf, True),
}
LONG = 10_000


def problem(P, R, start=0, **given):
    """A model of the average criterion from nested lists [S, A, S] and rewards of any shape."""
    mdp = MDP(torch.tensor(P, dtype=torch.float64), initial=start, axes="state-action-state")
    parts = {"horizon": math.inf, "criterion": "average"} | given
    return TrajectoryModel(mdp, reward=torch.as_tensor(R, dtype=torch.float64), **parts)


def random_problem(seed, scale=None, transient=False, forbidding=True):
    """Successor lists with equal next states, a random prior with holes, rewards per outcome; some of them -inf."""
    rng = np.random.default_rng(seed)
    states, actions, outcomes = int(rng.integers(1, 7)), int(rng.integers(1, 4)), int(rng.integers(1, 4))
    following = rng.integers(0, states, (states, actions, outcomes))
    following[:, 0, 0] = (np.arange(states) + 1) % states  # so that every state leads to every other
    chances = rng.dirichlet(np.ones(outcomes), (states, actions))
    prior = rng.dirichlet(np.ones(actions), states)
    if actions > 1:
        prior[:, 1] *= rng.random(states) < 0.7
    shape = [(states, actions, outcomes), (states, actions)][int(rng.integers(2))]
    rewards = rng.normal(size=shape) + rng.choice([0.0, 3.0, -3.0])
    size = rng.choice([1e-10, 1.0, 30.0]) if scale is None else scale
    rewards = rewards * size
    if forbidding and actions > 1 and rng.random() < 0.3:
        rewards[int(rng.integers(states)), 1] = -math.inf
    if transient:  # a state that nothing leads to, and that leads to another for certain
        following = np.concatenate([following, np.zeros((1, actions, outcomes), dtype=int)])
        chances = np.concatenate([chances, rng.dirichlet(np.ones(outcomes), (1, actions))])
        prior = np.concatenate([prior, np.full((1, actions), 1 / actions)])
        rewards = np.concatenate([rewards, size * rng.normal(size=(1, *rewards.shape[1:]))])
    mdp = MDP.from_successors(following, chances, initial=len(following) - 1)
    return TrajectoryModel(
        mdp,
        reward=OutcomeReward(rewards) if rewards.ndim == 3 else TableReward(rewards),
        horizon=math.inf,
        criterion="average",
        temperature=float(size * rng.choice([0.1, 1.0, 5.0])),
        action_prior=prior / prior.sum(-1, keepdims=True),
    )


def backup(model, eta, hard):
    """One backup in numpy, from values in nats to values in nats."""
    mdp = model.mdp
    chances, following = mdp.probabilities.numpy(), mdp.successors().expand(mdp.probabilities.shape).numpy()
    rewards = np.broadcast_to(model.log_potential(0).numpy(), chances.shape)
    prior = model.action_prior.numpy()

    def log_mean(weights, x, times):
        scaled = np.where(weights > 0, times * x, -np.inf)
        if np.abs(x[np.isfinite(x)]).max() < 0.1:  # what is 1 + little is right to rounding in what is little
            return np.log1p((weights * np.expm1(scaled)).sum(-1)) / times
        top = scaled.max(-1, keepdims=True)
        top = np.where(np.isfinite(top), top, 0.0)
        with np.errstate(divide="ignore"):
            return (top[..., 0] + np.log((weights * np.exp(scaled - top)).sum(-1))) / times

    def step(values):
        x = rewards + values[following]
        if eta == 0:
            q = np.where(chances > 0, chances * x, 0.0).sum(-1)
        elif math.isinf(eta):
            q = np.where(chances > 0, x, -np.inf).max(-1)
        else:
            q = log_mean(chances, x, eta)
        if hard:
            return np.where(prior > 0, q, -np.inf).max(-1)
        return log_mean(prior, q, 1.0)

    return step


def assert_answers(model, name, posterior):
    """The equation of the gain on what the start leads to, the long run, and the account per step."""
    eta, hard = BACKENDS[name]
    alpha, gain = model.temperature, float(posterior.gain) / model.temperature
    values = posterior.values[0].numpy() / alpha
    law, q = posterior.state_marginals[0], posterior.action_probs[0]
    met = np.isfinite(values)
    rewards = model.log_potential(0).numpy()
    size = max(np.abs(values[met]).max(), np.abs(rewards[np.isfinite(rewards)]).max())
    assert np.abs(backup(model, eta, hard)(np.where(met, values, -np.inf)) - gain - values)[met].max() < 1e-10 * size
    assert abs(float((law * posterior.values[0]).sum())) / alpha < 1e-12 * size
    moved = model.mdp.scatter((law[:, None] * q)[..., None] * posterior.outcomes(0)[0])
    assert float(law.sum()) == pytest.approx(1)
    assert float((moved - law).abs().max()) < 1e-12
    account = posterior.believed_return / alpha - posterior.policy_divergence - posterior.luck
    assert float(posterior.elbo) == pytest.approx(float(account), abs=1e-10 * size)
    if posterior.target in ("exact", "fixed-dynamics"):
        assert float(posterior.elbo) == pytest.approx(gain, abs=1e-10 * size)
    low, high = posterior.details["gain_bounds"]
    assert low <= float(posterior.gain) <= high or high - low < 1e-13 * size * alpha


@pytest.mark.parametrize("name", list(BACKENDS))
@each_seed(range(200), 12)
def test_the_equation_and_the_account_hold_on_random_problems(name, seed):
    model = random_problem(seed)
    posterior = cai.infer(model, name, throw=False)
    if BACKENDS[name][0] < 0 and posterior.status is Status.NOT_ASSURED:  # caution may earn differently by state
        values, step = np.zeros(model.mdp.num_states), backup(model, *BACKENDS[name])
        for _ in range(2000):
            before, values = values, step(values)
        assert np.ptp((values - before)[np.isfinite(values)]) > 1e-3
        return
    assert posterior.status.ok
    assert_answers(model, name, posterior)


def test_a_step_that_leads_to_values_without_digits_does_not_hide_that_no_one_gain_fits():
    posterior = cai.infer(random_problem(45), "risk:eta=-1.5", throw=False)
    assert posterior.status is Status.NOT_ASSURED
    low, high = posterior.details["gain_bounds"]
    assert 0 < low < high < 1e-9  # a step from there may earn 1e14 times as much, by its rounding


@pytest.mark.parametrize("name", ["variational", "value-iteration"])
@each_seed(range(100), 8)
def test_states_on_the_way_are_answered_with_the_dynamics_fixed(name, seed):
    model = random_problem(seed, transient=True, forbidding=False)
    posterior = cai.infer(model, name)
    assert_answers(model, name, posterior)
    assert posterior.state_marginals[0, -1] == 0
    assert float(posterior.initial[-1]) == 1


def _vector_of(matrix, vectors, root):
    """The column of eigenvectors that belongs to a root, its entries made positive."""
    size = matrix.rows
    gaps = [mpmath.norm(matrix * vectors[:, k] - root * vectors[:, k]) for k in range(size)]
    return [abs(vectors[j, int(np.argmin([float(gap) for gap in gaps]))]) for j in range(size)]


@each_seed(range(100), 10)
def test_the_exact_gain_is_the_perron_root_and_the_long_run_the_product_of_its_eigenvectors(seed):
    model = random_problem(seed, scale=1.0, forbidding=False)
    mdp, alpha = model.mdp, model.temperature
    chances = model.action_prior[..., None] * mdp.probabilities
    parts = (part.expand(chances.shape).flatten(1) for part in (chances, model.reward_table(0), mdp.successors()))
    matrix = mpmath.zeros(mdp.num_states, mdp.num_states)
    with mpmath.workdps(50):  # entries of an eigenvector may be 1e-16 of others
        for s, row in enumerate(zip(*parts, strict=True)):
            for chance, reward, following in zip(*row, strict=True):
                matrix[s, int(following)] += float(chance) * mpmath.exp(mpmath.mpf(float(reward)) / float(alpha))
        (roots, right), (_, left) = mpmath.eig(matrix), mpmath.eig(matrix.T)
        root = max(roots, key=mpmath.re)
        v, u = (_vector_of(matrix, side, root) for matrix, side in ((matrix, right), (matrix.T, left)))
        values = np.array([float(alpha * mpmath.log(entry / v[0])) for entry in v])
        whole = mpmath.fsum(a * b for a, b in zip(u, v, strict=True))
        seen = np.array([float(a * b / whole) for a, b in zip(u, v, strict=True)])
        gain = float(alpha * mpmath.log(mpmath.re(root)))
    posterior = cai.infer(model, "exact")
    assert float(posterior.gain) == pytest.approx(gain, rel=1e-9, abs=1e-10)
    np.testing.assert_allclose(posterior.state_marginals[0], seen, atol=1e-8)
    np.testing.assert_allclose(posterior.values[0] - posterior.values[0, 0], values, atol=1e-8)


@pytest.mark.parametrize("name", list(BACKENDS))
@pytest.mark.parametrize("seed", range(2))
def test_long_horizons_tend_to_it(name, seed):
    rng = np.random.default_rng(seed)
    P, R = rng.dirichlet(np.ones(4), (4, 3)), rng.normal(size=(4, 3, 4))
    model = problem(P, R, temperature=0.7)
    posterior = cai.infer(model, name)
    if name in ("exact", "variational"):
        late, later = cai.infer(model.replace(criterion="total", horizon=LONG), name).values[:2].flip(0)
    else:
        late, step = np.zeros(4), backup(model, *BACKENDS[name])
        for _ in range(LONG - 1):
            late = step(late)
        late, later = (model.temperature * torch.from_numpy(values) for values in (late, step(late)))
    assert float((later - late - posterior.gain).abs().max()) < 1e-8
    apart = later - later[0] - (posterior.values[0] - posterior.values[0, 0])
    assert float(apart.abs().max()) < 1e-8
    q, own = cai.infer(model.replace(criterion="total", horizon=50), name).action_probs[0], posterior.action_probs[0]
    assert float((q - own).abs().max()) < 1e-6


RING = [[[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]]]


@pytest.mark.parametrize("name", [*BACKENDS, "z-iteration", "z-iteration:solver=iteration"])
def test_a_periodic_chain_is_answered_and_says_that_it_does_not_settle(name):
    posterior = cai.infer(problem(RING, [1.0, 2.0, 6.0]), name)
    assert float(posterior.gain) == pytest.approx(3)
    assert posterior.values[0].tolist() == pytest.approx([-5 / 3, 1 / 3, 4 / 3])
    assert posterior.details["period"] == 3
    assert "V_T - T gain does not settle" in posterior.details["note"]


@pytest.mark.parametrize("size", [1e-12, 1e-4, 1e4, 1e8])
@pytest.mark.parametrize("name", [*BACKENDS, "z-iteration"])
def test_rewards_may_be_tiny_or_huge(name, size):
    both = [[[1.0, 0.0], [0.0, 1.0]]] * 2  # stay in or go to either state
    rewards = [[0.2, -0.5], [1.0, -0.1]]
    model = problem(both, size * np.array(rewards))
    posterior = cai.infer(model, name)
    if name == "z-iteration":
        name = "variational"
    assert_answers(model, name, posterior)
    prior = -math.log(2) if BACKENDS[name] != (0.0, True) and "value" not in name else 0.0
    if size >= 1e4:
        best = max(0.2 * size, 0.25 * size)  # going round earns (-0.5 + 1) / 2 a step
        assert float(posterior.gain) == pytest.approx(best + prior, rel=1e-9)
    if size == 1e-12 and prior:
        assert float(posterior.gain) == pytest.approx(size * 0.15, rel=1e-9)  # the mean of the four


def test_one_state_and_one_action():
    for name in (*BACKENDS, "z-iteration"):
        posterior = cai.infer(problem([[[1.0]]], [3.0], temperature=0.5), name)
        assert float(posterior.gain) == 3
        assert posterior.values.tolist() == [[0.0]]
        assert posterior.details["period"] == 1
        assert float(posterior.luck) == 0


def test_a_chain_that_nearly_falls_apart():
    leak = 1e-10
    model = problem([[[1 - leak, leak]], [[leak, 1 - leak]]], [0.0, 1.0])
    fixed, exact = cai.infer(model, "variational"), cai.infer(model, "exact")
    assert float(fixed.gain) == pytest.approx(0.5, rel=1e-12)
    assert float(fixed.values[0, 1] - fixed.values[0, 0]) == pytest.approx(0.5 / leak, rel=1e-9)
    assert float(exact.gain) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("eta", [-10.0, 1.0])
def test_steps_that_move_nearly_all_states_far_cost_no_digits_of_what_they_differ_by(eta):
    """Policies and beliefs that all but never leave a state, so that a step of Newton's has 1e15 to 1e44 in common."""
    if eta < 0:
        P = np.array([[0.15, 0.85, 0, 0], [0, 0, 0.863, 0.137], [0, 0.853, 0, 0.147], [0.534, 0.466, 0, 0]])[:, None]
        R = [[-1.005, -0.641, 0, 0], [0, 0, 1.961, -1.042], [0, 0.494, 0, -1.533], [1.434, -0.08, 0, 0]]
        model = problem(P.tolist(), np.array(R)[:, None], temperature=0.1)
    else:
        P = np.eye(4)[[[1, 1], [2, 3], [3, 2], [0, 3]]]
        R = np.array([[-4.05, -2.32], [-4.45, -3.3], [-3.38, -2.39], [-2.2, -3.34]])
        model = problem(P.tolist(), R, temperature=0.01)
    posterior = cai.infer(model, f"risk:eta={eta}")
    values, gain = (part / model.temperature for part in (posterior.values[0].numpy(), float(posterior.gain)))
    assert np.abs(backup(model, eta, False)(values) - gain - values).max() < 1e-12 * np.abs(values).max()


@pytest.mark.parametrize("name", ["value-iteration", "value-iteration:successors=best", "worst"])
@each_seed(range(300), 15)
def test_hard_control_of_worlds_full_of_cycles_that_are_as_good(name, seed):
    """Sure moves and whole rewards, the oracle being the mean over 2520 = lcm(1..10) steps of value iteration."""
    rng = np.random.default_rng(seed)
    states, actions = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    following = rng.integers(0, states, (states, actions))
    following[:, 0] = (np.arange(states) + 1) % states
    rewards = rng.integers(-2, 3, (states, actions)).astype(float)
    if rng.random() < 0.3:  # all cycles earn 0
        height = rng.integers(-2, 3, states)
        rewards = (height[following] - height[:, None]).astype(float)
    model = problem(np.eye(states)[following].tolist(), rewards, start=int(rng.integers(states)))
    posterior = cai.infer(model, "value-iteration:successors=worst" if name == "worst" else name)
    step, values = backup(model, 0.0, True), np.zeros(states)
    for _ in range(200):
        values = step(values)
    late = values
    for _ in range(2520):
        late = step(late)
    np.testing.assert_allclose((late - values) / 2520, float(posterior.gain), atol=1e-12)
    assert float(posterior.believed_return) == pytest.approx(float(posterior.gain), abs=1e-12)
    own = posterior.values[0].numpy()
    assert np.abs(step(own) - float(posterior.gain) - own).max() < 1e-12
    assert abs(float(posterior.state_marginals[0] @ posterior.values[0])) < 1e-12


def test_the_start_is_tilted_by_what_states_are_worth_and_counts_nothing():
    rng = np.random.default_rng(5)
    mdp = MDP(rng.dirichlet(np.ones(3), (3, 2)), initial=[0.2, 0.3, 0.5])
    model = TrajectoryModel(mdp, reward=rng.normal(size=(3, 2)), horizon=math.inf, criterion="average")
    posterior, other = cai.infer(model, "exact"), cai.infer(model.batch(initial=np.eye(3)[:1])[0], "exact")
    tilted = mdp.initial * posterior.values[0].exp()
    np.testing.assert_allclose(posterior.initial, tilted / tilted.sum(), rtol=1e-12)
    assert float(posterior.luck) == pytest.approx(float(other.luck), rel=1e-12)


def test_bernoulli_optimality_is_counted_per_step():
    model = problem(RING, [1.0, 2.0, 6.0], optimality="bernoulli")
    assert float(cai.infer(model, "exact").log_evidence) == pytest.approx(3 - 6)


@pytest.mark.parametrize("name", ["exact", "variational", "risk:eta=-1.5"])
def test_gradients_are_those_of_finite_differences(name):
    rng = np.random.default_rng(2)
    mdp = MDP(rng.dirichlet(np.ones(4), (4, 2)), initial=0)
    table, weights = torch.tensor(rng.normal(size=(4, 2, 4))), torch.tensor(rng.normal(size=4))

    def numbers(rewards):
        model = TrajectoryModel(mdp, reward=rewards, horizon=math.inf, criterion="average", temperature=0.8)
        posterior = cai.infer(model, name)
        return torch.stack(
            [
                posterior.gain,
                posterior.elbo,
                (posterior.values[0] * weights).sum(),
                (posterior.action_probs[0, :, 0] * weights).sum(),
                (posterior.state_marginals[0] * weights).sum(),
                posterior.believed_return,
                posterior.luck + posterior.policy_divergence,
            ]
        )

    leaf = table.clone().requires_grad_()
    slopes = [torch.autograd.grad(number, leaf, retain_graph=True)[0] for number in numbers(leaf)]
    for place in [(0, 0, 1), (2, 1, 3), (3, 0, 0)]:
        nudge = torch.zeros_like(table)
        nudge[place] = 1e-5
        found = (numbers(table + nudge) - numbers(table - nudge)) / 2e-5
        np.testing.assert_allclose([slope[place] for slope in slopes], found, atol=1e-8)


@pytest.mark.parametrize("size", [12, 20])
@pytest.mark.parametrize("name", ["exact", "variational", "value-iteration"])
def test_a_slippery_torus_on_which_it_pays_to_stay_around_one_place(name, size):
    """Most states are all but never seen; against relative value iteration in plain numpy, of which half moves."""
    here = np.arange(size**2)
    row, column = here // size, here % size
    steps = [(row + a) % size * size + (column + b) % size for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    sideways = [(2, 3), (2, 3), (0, 1), (0, 1)]
    following = np.stack([np.stack([steps[a], *(steps[b] for b in sideways[a])], 1) for a in range(4)], 1)
    chances = np.broadcast_to([0.8, 0.1, 0.1], following.shape).copy()
    rewards = np.random.default_rng(size).normal(size=size**2)
    mdp = MDP.from_successors(following, chances, 0)
    model = TrajectoryModel(mdp, torch.tensor(rewards), math.inf, criterion="average")
    got = cai.infer(model, name)
    values = np.zeros(size**2)
    for _ in range(40_000):
        if name == "exact":
            q_values = rewards[:, None] + np.log((chances * np.exp(values[following])).sum(-1))
        else:
            q_values = rewards[:, None] + (chances * values[following]).sum(-1)
        if name == "value-iteration":
            change = q_values.max(-1) - values
        else:
            top = q_values.max(-1)
            change = top + np.log(np.exp(q_values - top[:, None]).mean(-1)) - values
        values = values + change / 2 - change.mean() / 2
        values -= values.max()
        if np.ptp(change) < 1e-12:
            break
    assert float(got.gain) == pytest.approx(change.mean(), abs=1e-10)
    apart = got.values[0].numpy() - values
    assert np.ptp(apart) < 1e-8


def test_states_that_are_seldom_seen_cost_no_digits():
    rng, size = np.random.default_rng(0), 12
    place = np.arange(size * size)
    x, y = np.divmod(place, size)
    rings = [((x + dx) % size) * size + (y + dy) % size for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    following = np.stack([np.stack(rings, -1), np.stack([*rings[1:], rings[0]], -1)], -1)
    chances = np.broadcast_to([0.9, 0.1], following.shape).copy()
    mdp = MDP.from_successors(following, chances, initial=0)
    model = TrajectoryModel(
        mdp, reward=5 * rng.normal(size=(size * size, 4)), horizon=math.inf, criterion="average", temperature=0.5
    )
    for name in ("exact", "variational"):
        posterior = cai.infer(model, name)
        assert_answers(model, name, posterior)
        assert posterior.details["error_bound"] < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["variational", "exact", "value-iteration"])
@mpmath.workdps(40)
def test_the_bound_holds_for_values_as_they_are_rounded(name, dtype):
    """Two states that are left with p and q; what is given is the same number in either dtype."""
    for number in range(1, 25):
        p, q = 2.0**-number, 3 * 2.0 ** -(number % 7 + 2)
        model = problem([[[1 - p, p]], [[q, 1 - q]]], [number / 8, -0.375], temperature=3.0).to(dtype=dtype)
        got = cai.infer(model, name)
        law = [mpmath.mpf(float(x)) for x in got.state_marginals[0]]
        if name == "exact":  # the root of a quadratic equation
            stay, switch = [mpmath.exp(mpmath.mpf(number) / 24), mpmath.exp(mpmath.mpf(-0.375) / 3)], (p, q)
            a, d = (w * (1 - mpmath.mpf(x)) for w, x in zip(stay, switch, strict=True))
            root = (a + d + mpmath.sqrt((a - d) ** 2 + 4 * stay[0] * p * stay[1] * q)) / 2
            gain, apart = 3 * mpmath.log(root), 3 * mpmath.log(stay[0] * p / (root - a))
        else:
            gain = (q * mpmath.mpf(number) / 8 - p * mpmath.mpf(0.375)) / (mpmath.mpf(p) + q)
            apart = (mpmath.mpf(number) / 8 + 0.375) / (mpmath.mpf(p) + q)
        mean = law[0] * apart / sum(law)
        missed = [abs(float(x) - want) for x, want in zip(got.values[0], (apart - mean, -mean), strict=True)]
        assert max(missed) <= got.details["error_bound"], (number, missed)
        low, high = got.details["gain_bounds"]
        assert low <= gain <= high


def test_evaluation_comparison_files_and_batches_are_per_step(tmp_path):
    rng = np.random.default_rng(7)
    model = problem(rng.dirichlet(np.ones(4), (4, 2)), rng.normal(size=(4, 2)))
    fixed = cai.infer(model, "variational")
    outcome = cai.evaluate(cai.extract_policy(fixed), model)
    assert outcome.expected_return == pytest.approx(float(fixed.believed_return), rel=1e-12)
    assert outcome.entropy == pytest.approx(float(fixed.policy_entropy), rel=1e-12)
    assert abs(float(outcome.returns.mean()) - outcome.expected_return) < 5 * outcome.standard_error
    table = cai.compare(model, ["exact", "variational", "smc"])
    assert table.to_frame().loc["variational", "gain"] == pytest.approx(float(fixed.gain))
    rows = json.loads(table.to_json())
    assert rows["criterion"] == "average"
    assert [row["gain"] is None for row in rows["rows"]] == [False, False, True]
    assert "criterion='average'" in rows["rows"][2]["detail"]
    fixed.save(tmp_path / "answer")
    loaded = cai.load(tmp_path / "answer")
    assert loaded.gain == fixed.gain
    assert loaded.model.criterion == "average"
    hot = cai.infer(model.batch(temperature=[1.0, 4.0]), "variational")
    assert float(hot[0].gain) == float(fixed.gain)
    assert float(hot[1].gain) == float(cai.infer(model.replace(temperature=4.0), "variational").gain)


def test_an_unavoidable_minus_infinity_has_its_status():
    both = [[[0.5, 0.5]], [[1.0, 0.0]]]
    model = problem(both, [[[0.0, -math.inf]], [[0.0, 0.0]]])
    assert cai.infer(model, "variational", throw=False).status is Status.UNAVOIDABLE
    exact = cai.infer(model, "exact")  # stays in the first state for ever
    assert float(exact.gain) == pytest.approx(math.log(0.5))
    assert exact.state_marginals.tolist() == [[1.0, 0.0]]
    dead = problem(RING, [0.0, -math.inf, 0.0])
    assert cai.infer(dead, "exact", throw=False).status is Status.IMPOSSIBLE


SPLIT = [[[0.0, 0.5, 0.5]], [[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]
LEFT = [[[0.5, 0.5], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]


@pytest.mark.parametrize(
    ("P", "R", "name", "words"),
    [
        (SPLIT, [0.0, 1.0, 2.0], "exact", "can end up for ever around state"),
        (SPLIT, [0.0, 1.0, 2.0], "value-iteration", "choose a start that leads to one of them alone"),
        (LEFT, [[1.0, 0.0], [0.0, 1.0]], "exact", "nothing leads back to state 0; start in state 1"),
        ([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]] * 2], [[9.0, 0.0], [1.0, 1.0]], "variational", "around state 0"),
        ([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]] * 2], [[9.0, 0.0], [1.0, 1.0]], "value-iteration", "around state 0"),
        (RING, [1.0, 2.0, 3.0], "em", "is about sums of rewards"),
        (RING, [1.0, 2.0, 3.0], "smc", "ask 'exact', 'variational'"),
    ],
)
def test_what_has_no_one_gain_is_refused_in_words(P, R, name, words):
    with pytest.raises(ValueError, match=words):
        cai.infer(problem(P, R), name)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"criterion": "mean"}, "criterion is 'mean'; expected 'total'"),
        ({"horizon": 20}, "the horizon is 20; give horizon=math.inf"),
        ({"discount": 0.9}, "takes no discount, and this one is 0.9"),
    ],
)
def test_models_without_a_long_run_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        problem(RING, [1.0, 2.0, 3.0], **changes)


def test_terminal_states_and_horizons_of_members_are_refused():
    with pytest.raises(ValueError, match=r"goes on for ever, and state .* is terminal"):
        bridge().replace(horizon=math.inf, criterion="average")
    with pytest.raises(ValueError, match="all its members have an infinite horizon"):
        problem(RING, [1.0, 2.0, 3.0]).batch(horizon=[3, 4])


def test_a_backup_whose_gain_depends_on_the_state_is_not_called_a_success():
    # Caution: from the second state the worst is to stay there for ever, from the first one may stay for 1 a step.
    model = problem([[[1.0, 0.0], [0.5, 0.5]], [[0.1, 0.9]] * 2], [[1.0, 1.0], [-10.0, -10.0]])
    posterior = cai.infer(model, "risk:eta=-5", throw=False)
    assert posterior.status is Status.NOT_ASSURED
    assert "may depend on the state" in posterior.details["why"]
