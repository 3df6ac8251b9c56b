"""Tables counted along steps: what they hold is what was seen, and close to the truth where that is known."""

import gymnasium
import numpy as np
import pytest
import torch

import cai
from cai.models import count_model, gymnasium_model


def test_counts_of_a_lake_are_within_error_of_its_table():
    true = gymnasium_model("FrozenLake-v1").mdp
    model = count_model("FrozenLake-v1", steps=30_000, horizon=20)
    assert model.mdp.state_names == true.state_names
    assert bool((model.mdp.terminal == true.terminal).all())
    often = [0, 4]  # each of their four actions was tried over a thousand times
    error = (model.mdp.dense()[often] - true.dense()[often]).abs().max()
    assert 0 < float(error) < 0.06
    goal = model.mdp.state_index("15")
    table = torch.stack([model.reward_table(0)[s] for s in range(16)])
    paid = table * model.mdp.probabilities
    assert float(paid[goal].abs().sum()) == 0
    assert float(paid[14].sum()) > 0


def test_a_deterministic_world_is_counted_exactly():
    true = gymnasium_model("FrozenLake-v1", is_slippery=False, horizon=12)
    model = count_model("FrozenLake-v1", is_slippery=False, steps=20_000, horizon=12)
    torch.testing.assert_close(cai.infer(model).log_evidence, cai.infer(true).log_evidence)


def test_bins_are_counted_as_a_plain_loop_does():
    edges = [[0.0], [], [-0.02, 0.02], []]
    model = count_model("CartPole-v1", bins=edges, steps=3_000, seed=5, horizon=8)
    environment = gymnasium.make("CartPole-v1")
    draws = iter(np.random.default_rng(5).integers(2, size=3_000).tolist())
    seen, over, first = {}, True, True
    for action in draws:
        if over:
            observation, _ = environment.reset(seed=5 if first else None)
            first = False
        before = tuple(int(np.digitize(x, cut)) for x, cut in zip(observation, edges, strict=True))
        observation, _, over, cut_short, _ = environment.step(action)
        after = tuple(int(np.digitize(x, cut)) for x, cut in zip(observation, edges, strict=True))
        seen.setdefault((before, action), []).append("terminated" if over else str(after))
        over = over or cut_short
    dense = model.mdp.dense()
    for (state, action), nexts in seen.items():
        for name in set(nexts):
            got = dense[model.mdp.state_index(str(state)), action, model.mdp.state_index(name)]
            assert float(got) == pytest.approx(nexts.count(name) / len(nexts))
    assert not dense.isnan().any()


def test_states_in_which_nothing_was_tried_are_left_out_with_a_word(caplog):
    model = count_model("CartPole-v1", bins=40, steps=300, horizon=5)
    assert "no action was tried are left out" in caplog.text
    assert bool((model.mdp.available | model.mdp.terminal[:, None]).any(-1).all())


@pytest.mark.parametrize(
    ("environment", "options"),
    [
        ("Blackjack-v1", {}),
        ("Pendulum-v1", {"bins": 4, "actions": [[-2.0], [2.0]]}),
        ("CartPole-v1", {"bins": lambda seen: "left" if seen[2] < 0 else "right", "policy": lambda seen: seen[2] > 0}),
        ("CartPole-v1", {"bins": [3, 1, 4, 2]}),
    ],
)
def test_many_worlds_are_counted_and_answered(environment, options):
    model = count_model(environment, steps=2_000, horizon=4, **options)
    assert cai.infer(model, "variational").status.ok


@pytest.mark.parametrize(
    ("environment", "options", "pattern"),
    [
        ("CartPole-v1", {}, r"4 real numbers; say how.*bins=8.*bins=\[8, 8, 8, 8\].*function"),
        ("CartPole-v1", {"bins": [2, 2]}, r"bins holds 2 entries.*4 numbers"),
        ("CartPole-v1", {"bins": [[1.0, 0.0], 1, 1, 1]}, r"bins\[0\].*edges that rise"),
        ("CartPole-v1", {"bins": 0}, r"bins\[0\] is 0; give a whole number of at least 1"),
        ("Pendulum-v1", {"bins": 3}, r"Box.*cannot be counted.*actions=\[\.\.\.\]"),
        ("FrozenLake-v1", {"bins": 3}, r"need no bins"),
        ("FrozenLake-v1", {"steps": 0}, r"steps is 0"),
    ],
)
def test_refused(environment, options, pattern):
    with pytest.raises(ValueError, match=pattern):
        count_model(environment, **options)


class Corridor(gymnasium.Env):
    """Four places in a row; the last pays 1 and ends the episode."""

    observation_space, action_space = gymnasium.spaces.Discrete(4), gymnasium.spaces.Discrete(2)

    def __init__(self, prize=1.0):
        self.prize = prize

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = 0
        return 0, {}

    def step(self, action):
        self.place = min(3, self.place + 1) if action else max(0, self.place - 1)
        return self.place, self.prize * (self.place == 3), self.place == 3, False, {}


@pytest.mark.parametrize(
    ("source", "options", "prize"),
    [(Corridor, {}, 1.0), (Corridor, {"prize": 3.0}, 3.0), (lambda: Corridor(2.0), {}, 2.0), (Corridor(), {}, 1.0)],
)
def test_a_class_and_a_function_are_asked_for_their_environment(source, options, prize):
    model = count_model(source, steps=500, horizon=3, temperature=1.0, **options)
    answer = cai.infer(model, "max-product")
    assert float(answer.believed_return) == prize
