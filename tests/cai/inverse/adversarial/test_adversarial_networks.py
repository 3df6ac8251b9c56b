"""AIRL and GAIL with networks: what is paid, what is read, what is refused, and what comes out."""

import math
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from adversarial_oracle import random_world

import cai
from cai.inference import SoftActorCritic, SoftQLearning
from cai.inference.learning.networks.answers.policy import LearnedPolicy
from cai.inference.learning.networks.experience.buffer import Batch
from cai.inference.learning.networks.experience.collector import Collector
from cai.inference.learning.networks.experience.interface import Interface, interface_of
from cai.inference.learning.networks.updates.box_actor_critic import BoxActorCritic
from cai.inference.learning.networks.updates.brain import Setting
from cai.inference.learning.networks.updates.temperature import Target
from cai.inverse import ContinuousDemonstrations, Demonstrations, FitStatus, airl, gail
from cai.inverse.adversarial.brain import AdversarialBrain
from cai.inverse.adversarial.discriminator import Discriminator, Steps
from cai.inverse.adversarial.judge import measured_divergence
from cai.inverse.adversarial.shown import read_steps
from cai.models import collect, environment_model

NOTHING = torch.zeros(0, dtype=torch.float64)
ONE_HOT = Interface((4,), 4, 2, NOTHING, NOTHING, ())


def drawn_steps(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    states, following = (torch.randint(4, (number,), generator=generator) for _ in range(2))
    eye = torch.eye(4)
    ended = (torch.rand(number, generator=generator) < 0.3).float()
    actions = torch.randint(2, (number, 1), generator=generator).float()
    weights = torch.rand(number, generator=generator)
    return Steps(eye[states], actions, eye[following], ended, weights)


def linear(method="airl", gamma=0.8):
    return Discriminator(ONE_HOT, method, (), gamma, False, torch.zeros(4), torch.ones(4))


def test_the_reward_and_the_value_of_the_demonstrator_give_one_half():
    """With g = r / alpha + log p and h = V / alpha put into the networks, f = log pi where dynamics are certain."""
    world = random_world(0)
    world.horizon = 400  # as good as for ever: .9^400 is 5e-19
    values, logs = world.solved()
    net = linear(gamma=world.discount)
    g = torch.tensor(world.rewards / world.temperature + np.log(world.prior))
    h = torch.tensor(values[0])[:, None]
    zeros = torch.zeros(1, dtype=torch.float64)
    flat = torch.cat([g.flatten(), zeros, zeros, h.flatten(), zeros, zeros])
    assert len(flat) == len(net.start(torch.Generator()))
    eye = torch.eye(4, dtype=torch.float64)
    for s in range(3):
        for a in range(2):
            following = world.moves[s][a][0][1]
            step = Steps(eye[[s]], torch.tensor([[a]]), eye[[following]], zeros + (following == 3), zeros + 1)
            assert float(net.score(flat, step)) == pytest.approx(logs[0, s, a], abs=1e-12)


def test_the_loss_is_that_of_telling_right():
    """Against loops, with the steps in the absorbing state written out one by one."""
    net, shown, done = linear(), drawn_steps(7), drawn_steps(9, 1)
    flat = net.start(torch.Generator().manual_seed(3)) + 0.1
    logs = [torch.linspace(-2, -0.1, 7), torch.linspace(-1, -0.2, 9)]
    g, h, c = flat[:8].view(4, 2) + flat[8:10], flat[10:14] + flat[14], float(flat[15])
    total = 0.0
    for steps, policy, sign in ((shown, logs[0], 1), (done, logs[1], -1)):
        right = mass = 0.0
        for o, a, n, end, w, log in zip(*steps, policy, strict=True):
            s, following = int(o.argmax()), int(n.argmax())
            f = float(g[s, int(a)] + 0.8 * h[following] * (1 - end) - h[s])
            right -= float(w) * math.log1p(math.exp(-sign * (f - float(log))))
            mass += float(w)
            for k in range(1, 200 if end else 1):
                right -= float(w) * 0.8**k * math.log1p(math.exp(-sign * c))
                mass += float(w) * 0.8**k
        total -= right / mass
    assert float(net.loss(flat, shown, done, (logs[0], logs[1]))) == pytest.approx(total, rel=1e-5)


class Recorder:
    """A learner's networks that write down what they are paid."""

    def __init__(self):
        self.temperature = None
        self.paid = []

    def log_policy_of(self, observations, actions, allowed):
        return -1.0 - observations[:, 0] - 0.5 * actions[:, 0]

    def tensors(self):
        return {}

    def update(self, batch, generator):
        self.paid.append(batch.rewards)


@pytest.mark.parametrize("method", ["airl", "gail"])
def test_entropy_is_counted_once(method):
    """Who adds entropy is paid f, who does not f - log pi; what follows an end is worth c / (1 - gamma)."""
    net, shown, steps = linear(method), drawn_steps(20), drawn_steps(30, 1)
    batch = Batch(steps.observations, steps.actions, torch.full((30,), 99.0), steps.following, steps.ended, None, None)
    rows = torch.cat([steps.observations, steps.actions, torch.zeros(30, 1), steps.ended[:, None], steps.following], 1)
    for adds in (True, False):
        inner = Recorder()
        brain = AdversarialBrain(inner, adds, net, shown, 1e-2, 40, torch.Generator().manual_seed(0))
        brain.watch(rows)
        brain.update(batch, torch.Generator().manual_seed(1))
        f = net.score(brain.flat, steps) + steps.ended * 0.8 * brain.flat[-1] / 0.2
        want = f if adds else f - inner.log_policy_of(steps.observations, steps.actions, None)
        torch.testing.assert_close(inner.paid[0], want)
        assert abs(float(brain.flat[-1])) > 1e-3  # it is learned
    with pytest.raises(ValueError, match="not always available"):
        brain.watch(torch.cat([rows, torch.zeros(30, 2), torch.ones(30, 2)], 1))


def test_only_the_last_steps_stand_for_the_policy():
    brain = AdversarialBrain(Recorder(), True, linear(), drawn_steps(20), 1e-2, 5, torch.Generator())
    rows = torch.arange(7.0)[:, None] * torch.ones(1, 11)
    brain.watch(rows[:4])
    brain.watch(rows[4:])
    ring = brain.tensors()["discriminator.recent"]
    assert sorted(ring[:, 0].tolist()) == [2, 3, 4, 5, 6]


def test_densities_of_actions_that_were_taken():
    """Those that the policy of a run says, in the entropy form; finite at the bounds."""
    box = Interface((), 2, 0, torch.tensor([-2.0, 0.0]).double(), torch.tensor([2.0, 1.0]).double(), (2,))
    brain = BoxActorCritic(
        Setting(box, (8,), 1e-3, 0.9, 1.0, Target(), None, True, 0.1), torch.Generator().manual_seed(0)
    )
    rows = torch.randn(20, 2, generator=torch.Generator().manual_seed(1))
    actions = brain.act(rows, None, torch.Generator().manual_seed(2))
    policy = LearnedPolicy(box, brain.actor.sizes, brain.policy_tensors())
    want = policy.log_prob(box.to_world(actions), rows)
    torch.testing.assert_close(brain.log_policy_of(rows, actions, None).double(), want, rtol=1e-3, atol=1e-3)
    assert bool(torch.isfinite(brain.log_policy_of(rows, actions.sign(), None)).all())


class Contexts(gymnasium.Env):
    """One step an episode: a context of two, an action of three."""

    def __init__(self):
        self.observation_space, self.action_space = gymnasium.spaces.Discrete(2), gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.context = int(self.np_random.integers(2))
        return self.context, {}

    def step(self, action):
        return self.context, -5.0, True, False, {}  # a reward that nobody should look at


def contexts():
    return environment_model(Contexts, discount=0.5, temperature=3.0)


WANTED = np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])


def shown_contexts(number=600):
    rng = np.random.default_rng(0)
    states = rng.integers(2, size=number)
    actions = (rng.random(number)[:, None] > WANTED[states].cumsum(1)).sum(1)
    return Demonstrations([[s, s] for s in states.tolist()], [[a] for a in actions.tolist()])


@pytest.mark.parametrize(("method", "learner"), [(airl, SoftQLearning), (gail, SoftActorCritic)])
def test_the_policy_of_the_demonstrations_is_learned(method, learner):
    chosen = learner(
        steps=4000, num_envs=10, updates_per_step=0.12, hidden_sizes=(16,), batch_size=128, learning_rate=1e-2
    )
    est = method(
        contexts(), shown_contexts(), learner=chosen, hidden_sizes=(), learning_rate=5e-3, recent=300, throw=False
    )
    probs = np.stack([est.policy.log_prob(np.full(2, a), np.arange(2)).exp().numpy() for a in range(3)], -1)
    np.testing.assert_allclose(probs, WANTED, atol=0.15)
    assert est.status is FitStatus.SUCCESS
    assert abs(est.discriminator_loss - math.log(4)) < 0.05
    f = est.reward.advantage([0, 1, 1], [0, 2, 0], [0, 1, 1], [True, True, True])
    assert float((f - torch.tensor(np.log(WANTED[[0, 1, 1], [0, 2, 0]]))).abs().max()) < 0.5
    assert 0 < float(est.probability([0], [1], [0], [True])) < 1
    assert int(est.policy.act([0, 1, 1]).max()) <= 2
    assert math.isfinite(est.reward.end_reward)
    assert len(est.history.step)


def test_another_policy_is_told_from_the_demonstrations():
    """The classifier's divergence against that of the two distributions, by their definition; and the status."""
    world = contexts()
    interface = interface_of(world, "")
    shown = read_steps(world, interface, shown_contexts(4000))
    rng = np.random.default_rng(1)
    states = rng.integers(2, size=4000)
    other = Demonstrations([[s, s] for s in states.tolist()], [[a] for a in rng.integers(3, size=4000).tolist()])
    found = measured_divergence(linear_of(interface), shown, read_steps(world, interface, other), 0)
    middle = (WANTED + 1 / 3) / 2
    steps = 0.5 * ((WANTED * np.log(WANTED / middle)).sum() + (np.log(1 / 3 / middle) / 3).sum()) / 2
    assert found == pytest.approx(steps / 2, abs=0.02)  # half of all is in the absorbing state, where nothing is told
    est = airl(
        world, shown_contexts(), learner="soft-q-learning:steps=120,warmup_steps=100,hidden_sizes=8", throw=False
    )
    assert est.status is FitStatus.DISTINGUISHABLE


def linear_of(interface):
    return Discriminator(interface, "gail", (), 0.5, False, torch.zeros(interface.size), torch.ones(interface.size))


def test_a_learner_of_ones_own_says_whether_it_adds_entropy():
    class Plain(SoftQLearning):
        adds_entropy = False

        def make_brain(self, setting, generator):
            made = super().make_brain(setting, generator)
            assert setting.temperature == 1.0
            assert setting.entropy_form
            assert setting.log_prior is None
            seen.append(made)
            return made

    seen = []
    est = gail(contexts(), shown_contexts(50), learner=Plain(steps=150, hidden_sizes=(8,)), throw=False)
    assert len(seen) == 1
    assert est.steps == 150


def test_demonstrations_of_every_kind_are_read_alike():
    world = contexts()
    interface = interface_of(world, "")
    own = Demonstrations([[0, 1, 1], [1, 0]], [[2, 0], [1]], complete=[True, False])
    listed = [
        SimpleNamespace(obs=np.array([0, 1, 1]), acts=np.array([2, 0]), terminal=True),
        SimpleNamespace(obs=np.array([1, 0]), acts=np.array([1]), terminal=False),
    ]
    stored = SimpleNamespace(
        iterate_episodes=lambda: [
            SimpleNamespace(
                observations=part.obs,
                actions=part.acts,
                terminations=np.array([False] * (len(part.acts) - 1) + [part.terminal]),
            )
            for part in listed
        ]
    )
    want = read_steps(world, interface, own)
    assert want[0].ended.tolist() == [0, 1, 0]
    assert want[1].tolist() == [0, 0, 1]
    assert want[0].following.argmax(-1).tolist() == [1, 1, 0]
    assert want[0].actions[:, 0].tolist() == [2, 0, 1]
    for given in (listed, stored):
        found = read_steps(world, interface, given)
        assert all(torch.equal(a, b) for a, b in zip(found[0], want[0], strict=True))
    taken = collect(world, 30, num_envs=2, seed=0)
    steps, owners = read_steps(world, interface, taken)
    assert len(owners.unique()) == 60
    assert bool(steps.ended.all())


def test_states_of_a_continuous_model_carry_their_time():
    model = cai.models.multi_goal(horizon=4)
    interface = interface_of(model, "")
    shown = ContinuousDemonstrations(torch.zeros(2, 5, 2), torch.zeros(2, 4, 2), weights=[1.0, 3.0])
    steps, owners = read_steps(model, interface, shown)
    assert steps.observations[:4, -1].tolist() == [0, 0.25, 0.5, 0.75]
    assert steps.ended.tolist() == [0, 0, 0, 1] * 2
    assert steps.weights.tolist() == [1] * 4 + [3] * 4
    assert owners.tolist() == [0] * 4 + [1] * 4


def test_masks_of_copies_that_go_on_are_kept():
    """Gymnasium's vectors tell of the copies that were reset alone, and zeros of the others; here all are told of."""
    model = cai.models.bridge(horizon=3)
    world = environment_model(lambda: cai.models.environment(model), discount=1.0, temperature=1.0)
    copies = Collector(world, interface_of(world, ""), 3, 0)
    before = copies.allowed.clone()
    seen, info = copies._worlds.reset(seed=[5, 6, 7], options={"reset_mask": np.array([True, False, False])})
    assert np.array_equal(info["action_mask"], before)
    copies._see(seen, info)
    assert torch.equal(copies.allowed, before)
    assert bool(before.any(-1).all())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learner": "variational"}, "expected one with networks"),
        ({"learner": "policy-gradient"}, "learns from single steps"),
        ({"learner": "soft-actor-critic:target_entropy=0.5"}, "its temperature, and here it is 1"),
        ({"learner": "soft-q-learning", "learning_rate": 0.0}, "learning_rate is 0"),
        ({"demos": Demonstrations([[0, 5]], [[0]])}, "numbers below"),
        ({"demos": Demonstrations([[0, 1]], [[3]])}, "one number each, 0 to 2"),
        ({"demos": 3}, "the demonstrations are a int"),
        ({"demos": [3]}, "demonstration 0 is a int"),
        (
            {"demos": [SimpleNamespace(obs=np.zeros(2, int), acts=np.zeros(2, int), terminal=True)]},
            "one observation more",
        ),
        ({"demos": Demonstrations([[0, 0]], [[0]], lengths=[0])}, "no step that counts"),
        ({"env": "Pendulum-v1"}, "the world is a str"),
    ],
)
def test_what_does_not_fit_worlds_is_refused(change, said):
    asked = {"env": contexts(), "demos": shown_contexts(5), "learner": "soft-q-learning:steps=100"} | change
    with pytest.raises((ValueError, TypeError), match=said):
        airl(asked.pop("env"), asked.pop("demos"), **asked)


def test_actions_outside_the_box_are_refused():
    world = environment_model("Pendulum-v1", discount=0.9, temperature=1.0)
    interface = interface_of(world, "")
    for actions, said in ((np.full((3, 1), 2.5), "outside the box"), (np.full((3, 2), 0.0), "takes 1 numbers each")):
        shown = [SimpleNamespace(obs=np.zeros((4, 3)), acts=actions, terminal=False)]
        with pytest.raises(ValueError, match=said):
            read_steps(world, interface, shown)
    shown = [SimpleNamespace(obs=np.full((4, 3), np.nan), acts=np.zeros((3, 1)), terminal=False)]
    with pytest.raises(ValueError, match="not finite"):
        read_steps(world, interface, shown)


@pytest.mark.campaign
@pytest.mark.parametrize("learner", [SoftQLearning, SoftActorCritic])
@pytest.mark.parametrize("method", [airl, gail])
def test_longer_episodes_are_learned(method, learner):
    """A ring of six states, left at the last: the policy wherever demonstrations often are."""
    moves = torch.tensor([[(s + 1) % 6, max(s - 1, 0)] for s in range(5)] + [[5, 5]])
    mdp = cai.models.MDP.from_successors(moves[..., None], torch.ones(6, 2, 1), [0.5, 0, 0, 0.5, 0, 0], terminal=[5])
    reward = torch.tensor([[-0.2, -1.0], [-1.0, -0.3], [-0.5, -0.8], [0.2, -0.6], [0.0, -1.0], [0.0, 0.0]]).double()
    model = cai.models.TrajectoryModel(mdp, reward, horizon=math.inf, discount=0.9)
    answer = cai.infer(model.entropy_form(), "variational")
    shown = Demonstrations.from_policy(answer, model, 300, 0)
    world = environment_model(
        lambda: cai.models.environment(model, observe="index", max_episode_steps=300), discount=0.9, temperature=1.0
    )
    chosen = learner(
        steps=20000, num_envs=8, updates_per_step=0.125, hidden_sizes=(32, 32), batch_size=128, learning_rate=3e-3
    )
    est = method(world, shown, learner=chosen, hidden_sizes=(), recent=400, throw=False)
    often = answer.action_probs[0][:5]
    probs = torch.stack([est.policy.log_prob(np.full(5, a), np.arange(5)).exp() for a in range(2)], -1)
    assert float((probs - often)[:4].abs().max()) < 0.15
    assert est.divergence < 0.05
