"""Skills: the augmented bound against trajectories written out by hand, and four ways to four goals."""

import itertools
import math

import numpy as np
import pytest
import torch

import cai
from cai.inference import SumProduct
from cai.inference.learning import Skills, skills
from cai.inference.tabular.policy_posterior import policy_posterior
from cai.models import MDP, TrajectoryModel, random_mdp

EDGES = (2, 10, 14, 22)  # of a grid of 5 x 5: the middles of its sides


def small(seed=0):
    """Three states of which the last is an end, chance, a prior and rewards that read time and outcome."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.ones(3), size=(3, 2))
    chances[2] = [0.0, 0.0, 1.0]
    mdp = MDP(chances, [0.7, 0.3, 0.0], terminal=[2])
    table = torch.as_tensor(rng.normal(size=(3, 3, 2, 3)))

    def reward(state, action, next_state, t):
        return torch.where(state < 2, table[t, state, action, next_state], 0.0)

    return TrajectoryModel(mdp, reward, horizon=3, temperature=0.7, action_prior=[0.3, 0.7])


def trajectories(model):
    """Every trajectory: its probability but for actions, rewards over alpha with log p(a), and what was done where."""
    chances, prior = model.mdp.probabilities.tolist(), model.action_prior.tolist()
    tables = [model.reward_table(t).expand(3, 2, 3).tolist() for t in range(3)]
    begin = model.mdp.initial.tolist()
    for start in range(2):
        for actions in itertools.product(range(2), repeat=3):
            for following in itertools.product(range(3), repeat=3):
                state, weight, worth, done = start, begin[start], 0.0, []
                for t, (action, after) in enumerate(zip(actions, following, strict=True)):
                    if state == 2:  # nothing is decided any more: one of the ways to write it down counts
                        weight *= float(action == 0 and after == 2)
                        continue
                    weight *= chances[state][action][after]
                    worth += tables[t][state][action][after] / 0.7 + math.log(prior[state][action])
                    done.append((state, action))
                    state = after
                if weight:
                    yield weight, worth, done


def test_the_augmented_bound_is_that_of_the_mixture():
    model = small()
    found = skills(model, 3, steps=3, restarts=1, seed=4)
    policies = found.action_probs.tolist()
    total = information = mixture = 0.0
    for weight, worth, done in trajectories(model):
        each = [math.prod(policy[s][a] for s, a in done) for policy in policies]
        mean = sum(each) / 3
        mixture += weight * mean * (worth - math.log(mean))
        for chance in each:
            told = math.log(chance / sum(each) * 3)  # log q(z | trajectory) / p(z)
            information += weight * chance * told / 3
            total += weight * chance * (worth - math.log(chance) + told) / 3
    assert found.elbo == pytest.approx(total, abs=1e-12)
    assert found.elbo == pytest.approx(mixture, abs=1e-12)
    assert found.information == pytest.approx(information, abs=1e-12)
    assert found.elbo <= float(cai.infer(model, "variational").elbo)
    assert found.elbo == pytest.approx(float(found.skill_elbos.mean()) + found.information, abs=1e-12)
    for z in range(3):
        own = policy_posterior(SumProduct(), model, found.action_probs[z].expand(3, -1, -1))
        assert float(found.skill_elbos[z]) == pytest.approx(float(own.elbo), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_one_skill_is_the_best_stationary_policy(seed):
    model = small(seed)
    found = skills(model, 1, restarts=1, seed=seed)
    assert found.information == pytest.approx(0.0, abs=1e-12)
    assert found.elbo == pytest.approx(float(cai.infer(model, "restricted", policy="stationary").elbo), abs=1e-6)


def four_goals():
    """A point in the middle of a square of rooms, and a prize in the middle of each side, at which an episode ends."""
    rows, columns = np.divmod(np.arange(25), 5)
    moves = ((-1, 0), (0, -1), (0, 1), (1, 0))
    after = np.stack([np.clip(rows + dr, 0, 4) * 5 + np.clip(columns + dc, 0, 4) for dr, dc in moves], 1)
    ends = np.isin(np.arange(25), EDGES)
    after = np.where(ends[:, None], np.arange(25)[:, None], after)
    mdp = MDP.from_successors(after[:, :, None].tolist(), np.ones((25, 4, 1)), np.eye(25)[12], terminal=list(EDGES))
    rewards = np.where(ends[:, None], 0.0, 3.0 * np.isin(after, EDGES) - 1.0)
    return TrajectoryModel(mdp, rewards, horizon=4, temperature=0.25)


def reached(model, policy):
    """Where the ends of episodes come to, [4]."""
    held = model.mdp.initial.double()
    for _ in range(model.steps):
        moved = torch.zeros_like(held)
        for action in range(model.mdp.num_actions):
            moved.index_add_(0, model.mdp.successors()[:, action, 0], held * policy[:, action])
        held = moved
    return held[list(EDGES)]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.campaign) for seed in (1, 2, 3, 4))])
def test_four_skills_go_to_four_goals(seed):
    model = four_goals()
    found = skills(model, 4, restarts=1, seed=seed)
    ends = torch.stack([reached(model, policy) for policy in found.action_probs])
    assert sorted(ends.argmax(1).tolist()) == [0, 1, 2, 3]
    assert float(ends.amax(1).min()) > 0.9
    assert found.information > 0.95 * math.log(4)
    best = float(cai.infer(model, "variational").elbo)
    assert best - 0.01 < found.elbo <= best
    states, actions = torch.tensor([[12, 7], [12, 17]]), torch.tensor([[0, 0], [3, 3]])  # up, and down
    told = found.posterior(states, actions)
    torch.testing.assert_close(told.sum(1), torch.ones(2).double())
    assert told.argmax(1).tolist() == [int(ends[:, 0].argmax()), int(ends[:, 3].argmax())]


def test_skills_travel_and_act(tmp_path):
    found = skills(small(), 2, steps=2, restarts=1)
    again = cai.load(found.save(tmp_path / "skills"))
    assert isinstance(again, Skills)
    assert torch.equal(again.action_probs, found.action_probs)
    assert again.elbo == found.elbo
    policy = again.policy(1)
    assert policy.horizon == math.inf
    assert torch.equal(policy.action_probs[0], found.action_probs[1])
    before = torch.get_rng_state()
    assert torch.equal(skills(small(), 2, steps=2, restarts=1).action_probs, found.action_probs)
    assert torch.equal(torch.get_rng_state(), before)


REFUSED = {
    "endless": (lambda: skills(random_mdp(0, horizon=math.inf), 2), "over a finite horizon with discount 1"),
    "discounted": (lambda: skills(small().replace(discount=0.9), 2), "this model has horizon 3 and discount 0.9"),
    "long": (lambda: skills(random_mdp(0, horizon=40), 2), r"there are more than 200,000 trajectories after \d+ of 40"),
    "none": (lambda: skills(small(), 0), "num_skills"),
    "weight": (lambda: skills(small(), 2, separation=-1.0), "separation is -1.0; give a finite number >= 0"),
    "weight in words": (lambda: skills(small(), 2, separation="much"), "separation is 'much'; give a finite number"),
    "which": (lambda: skills(small(), 2, steps=1).policy(2), "there is no skill 2; there are skills 0 to 1"),
    "shape": (lambda: skills(small(), 2, steps=1).posterior([0, 1], [0, 1]), r"states have shape \[2\] and actions"),
    "environment": (lambda: skills("Pendulum-v1", 2), "skills"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    build, pattern = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=pattern):
        build()


def test_trajectories_that_no_skill_made_are_refused():
    """Their posterior would be 0 / 0."""
    found = Skills(
        torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]).double(),
        torch.tensor([0.5, 0.5]).double(),
        0.0,
        0.0,
        torch.zeros(2),
        torch.zeros(1),
    )
    assert found.posterior([[0, 0]], [[0, 0]]).tolist() == [[0.5, 0.5]]
    with pytest.raises(ValueError, match="no skill takes the actions of trajectory 1"):
        found.posterior([[0, 0], [0, 0]], [[0, 0], [0, 1]])
    with pytest.raises(ValueError, match="there are states 0 to 0"):
        found.posterior([[0, 1]], [[0, 0]])
    with pytest.raises(ValueError, match="there are actions 0 to 1"):
        found.posterior([[0, 0]], [[0, -1]])


def test_where_nothing_is_decided_skills_are_the_prior():
    """All episodes end where they begin."""
    mdp = MDP([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]], [0.0, 1.0], terminal=[1])
    found = skills(TrajectoryModel(mdp, [[1.0, 2.0], [0.0, 0.0]], 3), 2, steps=3, restarts=1)
    assert (found.elbo, found.information) == (0.0, 0.0)


def test_trajectories_hold_whole_numbers():
    mdp = MDP([[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]], [1.0, 0.0])
    found = skills(TrajectoryModel(mdp, 0.0, 2), 2, steps=3, restarts=1)
    with pytest.raises(TypeError, match="give the whole numbers of both"):
        found.posterior([[0.5, 1.0]], [[0, 0]])


@pytest.mark.parametrize("seed", range(2))
def test_two_skills_are_never_worse_than_one_policy(seed):
    """Searches from random starts alone ended up to .008 nats below the policy that both could have been."""
    rng = np.random.default_rng(seed)
    chances, rewards = rng.dirichlet(np.full(4, 0.5), (4, 3)), np.round(rng.normal(size=(4, 3, 4)) * 8) / 4
    chances[3] = np.eye(4)[3]
    prior = rng.dirichlet(np.ones(3), 4) * [[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1]]
    model = TrajectoryModel(
        MDP(chances, [0.5, 0.25, 0.25, 0.0], terminal=[3]),
        np.where(np.arange(4)[:, None, None] == 3, 0.0, rewards),
        horizon=3,
        action_prior=prior / prior.sum(1, keepdims=True),
    )
    found = skills(model, 2, restarts=1, steps=60, seed=seed)
    best = float(cai.infer(model, "variational").elbo)
    one = float(cai.infer(model, "restricted", policy="stationary").elbo)
    assert one - 2e-4 * (1 + abs(one)) < found.elbo <= best + 1e-9
