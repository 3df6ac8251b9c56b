"""Composition of answers in deterministic worlds, against solving the composed problem."""

import numpy as np
import pytest
import torch
from campaigns import over_seeds
from lmdps import INF, ONE, TEMPERATURES, P, agree, close, listed, random_lmdp, small, solved
from refusals import check, holds_no_nan, refuse

from cai.inference import Status, StructuredVariational, SumProduct
from cai.inference.tabular.methods.composition import compose_models, compose_posteriors
from cai.inference.tabular.methods.z_iteration import ZIteration
from cai.models import MDP, TrajectoryModel, bridge
from cai.models.trajectory.lmdp import LMDP, compose_lmdps

TWO = LMDP(P, [2, 0], [1, 0], [1])


@pytest.mark.parametrize("horizon", [1, 5, INF])
@over_seeds(range(25), quick=8, blocks=1)
def test_composition_adds_desirabilities_up(horizon, seeds):
    answered = 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        base = random_lmdp(seed + 700, size=6, sure_start=seed % 2 == 0)
        finals = [np.where(rng.random(6) < 0.2, INF, rng.normal(0, 3, 6)) for _ in range(3)]
        parts = [base.replace(final_cost=final) for final in finals]
        weights, alpha = [rng.exponential(), 0.0 if seed % 4 == 0 else 1.7, 1e-3], TEMPERATURES[seed % 3]
        question = {"horizon": horizon, "temperature": alpha}
        answers = [ZIteration().run(part.to_model(**question)) for part in parts]
        want = ZIteration().run(compose_lmdps(parts, weights, temperature=alpha).to_model(**question))
        if any(answer.status is Status.DIVERGED for answer in answers):  # a trap within reach
            assert want.status is Status.DIVERGED
            continue
        got = compose_posteriors(answers, weights)
        agree(got, want, seed)
        answered += got.status.ok
        nonterminal = ~base.terminal
        z = sum(w * (answer.values / alpha).exp() for w, answer in zip(weights, answers, strict=True))
        assert close((got.values / alpha).exp()[:, nonterminal], z[:, nonterminal])
        shares = torch.stack([w * (a.values / alpha).exp() / z for w, a in zip(weights, answers, strict=True)])
        hope = nonterminal & (z > 0)
        assert close(got.details["mixture"][:, hope], shares[:, hope])
        controls = torch.stack([base.dense(answer.action_probs) for answer in answers])
        assert close(base.dense(got.action_probs)[hope], (shares[..., None] * controls).sum(0)[hope])
        solved = ZIteration().run(got.model)
        agree(solved, got, seed)
        holds_no_nan(got)
    assert answered >= 8 * len(seeds) / 25


def test_composition_of_other_deterministic_models():
    """Endings may be worth what they like, by state and action; the closed form of 'variational' serves as well."""
    table = np.zeros((4, 2, 4))
    table[0, 0, 1], table[0, 1, 2], table[1, 0, 0], table[1, 1, 3], table[2, :, 3], table[3, :, 3] = [1] * 6
    mdp = MDP(table, [1.0, 0.0, 0.0, 0.0], terminal=[3])
    rewards = [np.full((4, 2), -1.0) for _ in range(2)]
    rewards[0][1, 1], rewards[1][2] = 2.0, [-3.0, 4.0]
    models = []
    for reward in rewards:
        reward[3] = 0.0
        models.append(TrajectoryModel(mdp, reward, 4, temperature=0.5))
    got = compose_posteriors([StructuredVariational().run(model) for model in models], [1.0, 2.0])
    agree(got, ZIteration().run(compose_models(models, [1.0, 2.0])), "table")
    assert got.backend == "composition"
    assert got.model.reward.reads_time is True  # the last of four steps ends wherever it goes


def test_goals_compose_by_their_distance():
    """Two goals at the ends of a corridor, each answered alone; the mixture turns to the near one."""
    length = 21
    following = [[i] * 2 if i in (0, length - 1) else [i - 1, i + 1] for i in range(length)]
    wall = np.full(length, INF)
    ends = [np.where(np.arange(length) == goal, 0.0, wall) for goal in (0, length - 1)]
    start = np.eye(length)[5]
    walk = LMDP.from_successors(following, [[0.5, 0.5]] * length, 1.0, start, terminal=[0, length - 1])
    parts = [ZIteration().run(walk.replace(final_cost=end).to_model(horizon=INF)) for end in ends]
    both = compose_posteriors(parts, [1.0, 1.0])
    near, far = both.details["mixture"][:, 0, 5].tolist()
    assert near > 0.99 > far > 0
    assert both.details["mixture"][:, 0, 10].tolist() == pytest.approx([0.5, 0.5])
    assert float(both.state_marginals[0, 1:11].sum()) > 5 * float(both.state_marginals[0, 11:-1].sum())


@refuse(
    {
        "costs": (
            lambda: compose_lmdps([ONE, TWO], [1, 1]),
            r"lmdps\[0\] and lmdps\[1\] differ in state_cost; .*replace",
        ),
        "starts": (
            lambda: compose_lmdps([ONE, small(initial=[0, 1])], [1, 1]),
            "differ in initial; only problems",
        ),
        "dynamics": (lambda: compose_lmdps([ONE, small([[0.4, 0.6], [0, 1]])], [1, 1]), "differ in probabilities"),
        "successors": (
            lambda: compose_lmdps([ONE, listed([[1, 0], [1, 1]])], [1, 1]),
            "differ in next_states; only",
        ),
        "sizes": (lambda: compose_lmdps([ONE, LMDP([[1.0]], 0.0, [1])], [1, 1]), "differ in the shape of next_states"),
        "temperature": (lambda: compose_lmdps([ONE], [1], temperature=0), "temperature is 0; expected a finite"),
        "no LMDP": (lambda: compose_lmdps([ONE.to_model()], [1]), TypeError, "a TrajectoryModel cannot be composed"),
        "none": (lambda: compose_lmdps([], []), "nothing to compose; give at least one"),
        "number": (lambda: compose_lmdps([ONE], [1, 2]), r"weights has shape \[2\]; expected .* = \[1\]"),
        "sign": (lambda: compose_lmdps([ONE, ONE], [1, -1]), r"weights\[1\] is -1; .*finite numbers >= 0"),
        "zero": (lambda: compose_lmdps([ONE, ONE], [0, 0]), "weights are all 0, .*positive weight"),
        "discount": (
            lambda: compose_posteriors([solved(discount=0.9)], [1]),
            "component 0 has discount 0.9.*compose_lmdps",
        ),
        "horizons": (
            lambda: compose_posteriors([solved(horizon=3), solved(horizon=4)], [1, 1]),
            r"components 0 and 1 differ in horizon \(3 and 4\)",
        ),
        "temperatures": (
            lambda: compose_posteriors([solved(), solved(temperature=2.0)], [1, 1]),
            r"differ in temperature \(1.0 and 2.0\)",
        ),
        "priors": (
            lambda: compose_posteriors([solved(), solved(small([[0.4, 0.6], [0, 1]]))], [1, 1]),
            "differ in the action prior; only problems",
        ),
        "steps": (
            lambda: compose_posteriors([solved(), solved(TWO)], [1, 1]),
            "components 0 and 1 pay -1 and -2 for action 0 of state 0, which does not end the trajectory",
        ),
        "random": (
            lambda: compose_posteriors([StructuredVariational().run(bridge())], [1]),
            "a composition needs an action to have one next state.*use 'exact' or 'variational' on the composed",
        ),
        "target": (
            lambda: compose_posteriors([SumProduct().run(ONE.to_model())], [1]),
            "component 0, by 'exact', is of target 'exact'; answer each component with 'z-iteration'",
        ),
        "failed": (
            lambda: compose_posteriors([solved(LMDP(P, [-1, 0], [1, 0], [1]))], [1]),
            "component 0, by 'z-iteration', holds no answer .diverged.*answer each",
        ),
        "unsolved": (
            lambda: compose_posteriors([solved(horizon=3).replace(values=torch.zeros(3, 2).double())], [1]),
            "component 0, by 'z-iteration', is not solved everywhere: at time index 0 a value",
        ),
        "no posterior": (
            lambda: compose_posteriors([ONE], [1]),
            TypeError,
            "component 0 is a LMDP; expected a Posterior",
        ),
        "no model": (
            lambda: compose_models([ONE], [1]),
            TypeError,
            "component 0 is a LMDP; expected a TrajectoryModel",
        ),
    }
)
def test_what_does_not_compose_is_refused(build, error, pattern):
    check(build, error, pattern)
