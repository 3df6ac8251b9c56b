"""With optimality="bernoulli" r_max moves with the rewards: gradients against finite differences, over combinations."""

import math

import pytest
import torch

import cai
from cai.models import MDP, TrajectoryModel
from cai.models.rewards.tables import OutcomeReward, TimeTableReward

H = 1e-6
FIELDS = ("log_evidence", "elbo", "believed_return", "luck", "policy_entropy", "policy_divergence", "values")
BACKENDS = ("exact", "exact:keep=evidence", "variational", "optimistic", "enumeration", "risk:eta=0.5", "boltzmann")


def problem(seed):
    """(a function of rewards and temperature that makes a model, the rewards), a combination of features a seed."""
    generator = torch.Generator().manual_seed(seed)
    num_states, num_actions, horizon = 3, 2, 3
    coin = lambda: bool(torch.rand((), generator=generator) < 0.5)  # noqa: E731
    terminal, listed, timed, discount = coin(), coin(), coin(), 0.9 if coin() else 1.0
    weights = torch.rand(num_states, num_actions, num_states, generator=generator, dtype=torch.float64) + 0.1
    weights = weights / weights.sum(-1, keepdim=True)
    if terminal:
        weights[2] = torch.tensor([0.0, 0.0, 1.0])
    start, options = [0.5, 0.5, 0.0], {"terminal": [2] if terminal else None}
    if listed:
        successors = torch.arange(num_states).expand(num_states, num_actions, -1)
        mdp = MDP.from_successors(successors, weights, start, **options)
    else:
        mdp = MDP(weights, start, **options)
    shape = (num_states, num_actions, num_states)[: 1 + int(torch.randint(3, (), generator=generator))]
    shape = ((horizon,) if timed else ()) + shape
    rewards = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.5 + (0.7 if coin() else -1.5)
    if terminal:
        rewards[(slice(None), 2) if timed else 2] = 0.0

    def build(rewards, temperature):
        masked = torch.where(pays, rewards, 0.0)
        reward = TimeTableReward(masked) if timed else cai.models.TableReward(masked)
        return TrajectoryModel(
            mdp, reward, horizon=horizon, discount=discount, temperature=temperature, optimality="bernoulli"
        )

    pays = torch.ones(shape, dtype=torch.bool)
    if terminal:
        pays[(slice(None), 2) if timed else 2] = False
    return build, rewards


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_right_or_absent(seed, backend):
    build, rewards = problem(seed)
    leaf = rewards.clone().requires_grad_()
    alpha = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    fields = [name for name in FIELDS if backend != "enumeration" or name != "values"]

    def read(change, warmer=0.0):
        answer = cai.infer(build(rewards + change.reshape(rewards.shape), 0.7 + warmer), backend)
        parts = [getattr(answer, name) for name in fields]
        return torch.stack([torch.tensor(math.nan) if part is None else part.detach().sum() for part in parts])

    # Every entry is part of every random direction; the largest, of which there is a term of its own, is one itself.
    ways = torch.randn(4, rewards.numel(), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ways[0] = torch.nn.functional.one_hot(rewards.flatten().argmax(), rewards.numel())
    wanted = torch.stack([(read(H * way) - read(-H * way)) / (2 * H) for way in ways])
    still = torch.zeros(rewards.numel(), dtype=torch.float64)
    slopes = (read(still, H) - read(still, -H)) / (2 * H)
    answer = cai.infer(build(leaf, alpha), backend)
    for name, want, slope in zip(fields, wanted.T, slopes, strict=True):
        number = getattr(answer, name)
        if number is None or not number.requires_grad:
            assert number is None or name not in ("log_evidence", "elbo")
            continue
        got = torch.autograd.grad(number.sum(), (leaf, alpha), retain_graph=True, materialize_grads=True)
        assert torch.allclose(ways @ got[0].flatten(), want, atol=2e-7), name
        assert math.isclose(float(got[1]), float(slope), abs_tol=2e-6), name


def test_two_rewards_of_which_one_is_the_largest():
    process = MDP([[[0.5, 0.5]], [[0.3, 0.7]]], [1.0, 0.0])
    rewards = torch.tensor([1.0, 0.2], requires_grad=True, dtype=torch.float64)
    model = TrajectoryModel(process, rewards, horizon=3, optimality="bernoulli")
    (got,) = torch.autograd.grad(cai.infer(model, "exact").log_evidence, rewards)
    assert torch.allclose(got, torch.tensor([-0.6416109526, 0.6416109530], dtype=torch.float64), atol=1e-8)


def test_batches_members_and_float32_carry_the_gradient():
    process = MDP([[[0.5, 0.5]], [[0.3, 0.7]]], [1.0, 0.0])
    rewards = torch.tensor([[1.0, 0.2], [0.1, 0.4]], requires_grad=True, dtype=torch.float64)
    base = TrajectoryModel(process, 0.0, horizon=3, optimality="bernoulli")
    wanted = [
        torch.autograd.grad(cai.infer(base.replace(reward=row), "exact").log_evidence, rewards)[0] for row in rewards
    ]
    answers = cai.infer(base.batch(reward=rewards), "exact")
    (got,) = torch.autograd.grad(answers.log_evidence.sum(), rewards)
    assert torch.allclose(got, sum(wanted), atol=1e-12)
    small = base.replace(reward=rewards[0]).to(dtype=torch.float32)
    (got,) = torch.autograd.grad(cai.infer(small, "exact").log_evidence, rewards)
    assert torch.allclose(got, wanted[0], atol=1e-5)


def test_a_reward_that_no_outcome_pays_does_not_move_the_evidence():
    """A problem has one evidence, whether its process is a table or a list of what may happen."""
    chances = torch.tensor([[[0.5, 0.5, 0.0]], [[0.0, 0.25, 0.75]], [[0.0, 0.0, 1.0]]], dtype=torch.float64)
    rewards = torch.tensor([[[-1.0, 0.5, 8.0]], [[4.0, -2.0, 0.25]], [[2.0, 2.0, -0.5]]], dtype=torch.float64)
    paths = {(0, 0): 0.5, (0, 1): 0.5, (1, 1): 0.25, (1, 2): 0.75, (2, 2): 1.0}
    weights = {0: 1.0}
    for _ in range(4):
        reached = {}
        for (s, following), chance in paths.items():
            paid = chance * math.exp(float(rewards[s, 0, following]) - 0.5)  # 0.5 is the most that is ever paid
            reached[following] = reached.get(following, 0.0) + weights.get(s, 0.0) * paid
        weights = reached
    listed = MDP.from_successors(
        [[[0, 1]], [[1, 2]], [[2, 2]]], [[[0.5, 0.5]], [[0.25, 0.75]], [[1.0, 0.0]]], [1, 0, 0]
    )
    along = torch.tensor([[[-1.0, 0.5]], [[-2.0, 0.25]], [[-0.5, -0.5]]], dtype=torch.float64)
    for mdp, table in ((MDP(chances, [1.0, 0.0, 0.0]), rewards), (listed, along)):
        model = TrajectoryModel(mdp, OutcomeReward(table), 4, optimality="bernoulli")
        for backend in ("exact", "enumeration"):
            assert float(cai.infer(model, backend).log_evidence) == pytest.approx(math.log(sum(weights.values())))
