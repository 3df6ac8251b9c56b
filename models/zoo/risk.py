"""Problems about risk: what a plan that counts on luck does, in one decision and in several."""

from __future__ import annotations

from cai.models.common.checks import as_count, as_probability
from cai.models.processes.mdp import MDP
from cai.models.rewards.goals import Goal
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.tabulated import Outcomes, tabulate

__all__ = ["ladder", "lottery"]


def lottery(
    win_probability: float = 0.5,
    *,
    safe_reward: float = -1.0,
    lose_reward: float = -10.0,
    horizon: int | float = 1,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """One decision that shows the optimism problem: `safe` pays -1, `gamble` pays 0 or, as often, -10.

    The situation is that of Levine 2018, section 2.3: a soft maximum over outcomes believes in the lucky one. With
    the defaults the evidence is log((e^-1 + (1 + e^-10) / 2) / 2), and exact inference gambles where the fixed
    dynamics do not.

    Args:
        win_probability: of `gamble`.
        safe_reward: what `safe` pays.
        lose_reward: what a lost gamble pays; a won one pays 0.
        horizon: T; the game is over after its one decision.
        temperature: alpha.
        discount: in (0, 1].
    """
    as_probability(win_probability, "win_probability")
    ends = [[[state]] * 2 for state in (1, 2, 3)]
    mdp = MDP.from_successors(
        [[[1], [2, 3]], *ends],
        [[[1.0], [win_probability, 1 - win_probability]], *[[[1.0]] * 2] * 3],
        [1.0, 0.0, 0.0, 0.0],
        terminal=[1, 2, 3],
        state_names=["choice", "safe", "won", "lost"],
        action_names=["safe", "gamble"],
        regions={"lost": [3]},
    )
    reward = Goal("safe", safe_reward) + Goal("lost", lose_reward)
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="lottery")


def ladder(
    slip: float = 0.4,
    *,
    rungs: int = 5,
    prize: float = 3.0,
    fall_reward: float = -10.0,
    horizon: int | float = 8,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """Climb once more, or stop and keep the prize of this rung: risk that is taken again at every step.

    The situation that Levine 2018 (section 2.3) describes in words, and explains in section 2.4: an outcome of high
    value dominates the optimistic backup however bad the others are, and the posterior removes them from the dynamics.
    Here every rung offers such an outcome. With the defaults no climb is worth its risk at any rung, and fixed dynamics
    stop; exact inference climbs to the top on a chain of lucky steps, each for log(1 / (1 - slip)) nats. In the true
    world the top is reached with probability (1 - slip)^rungs. The `lottery` is one such decision, and the bridge's
    posterior does not even change with its slip; here luck grows with the number of risks that are taken.

    Args:
        slip: probability that a climb ends in a fall.
        rungs: how many there are above the ground; at the top one can only stop.
        prize: what stopping pays for each rung climbed, in reward units.
        fall_reward: what a fall pays; -inf forbids it.
        horizon: T; rungs + 1 steps suffice.
        temperature: alpha.
        discount: in (0, 1].

    Returns:
        A model with states "ground", "rung 1", ..., "stopped" and "fallen"; the last two are regions.
    """
    as_probability(slip, "slip")
    as_count(rungs, "rungs")
    names = ["ground", *(f"rung {i}" for i in range(1, rungs + 1))]
    table: dict[str, dict[str, Outcomes]] = {}
    for i, name in enumerate(names):
        table[name] = {"stop": [(1.0, "stopped", prize * i)]}
        if i < rungs:
            table[name]["climb"] = [(1 - slip, names[i + 1], 0.0), (slip, "fallen", fall_reward)]
    table |= {"stopped": {}, "fallen": {}}
    mdp, reward = tabulate(table, "ground", regions={"stopped": ["stopped"], "fallen": ["fallen"]})
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="ladder")
