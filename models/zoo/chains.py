"""Chains: states in a row, where what pays at once leads away from what pays most."""

from __future__ import annotations

from cai.models.common.checks import as_count, as_probability
from cai.models.trajectory.model import TrajectoryModel
from cai.models.zoo.tabulated import Outcomes, tabulate

__all__ = ["chain", "double_chain", "river_swim"]


def river_swim(
    *,
    num_states: int = 6,
    small_reward: float = 5.0,
    large_reward: float = 10_000.0,
    horizon: int | float = 20,
    temperature: float = 1000.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """A river with a little money at its lower end and a fortune at the upper one, against the current.

    RiverSwim (Strehl and Littman 2008, "An analysis of model-based interval estimation for Markov decision
    processes"). `left` drifts down for certain, and pays `small_reward` at the lower end. `right` goes up with
    probability 0.3, stays with 0.6 and is carried down with 0.1; at the lower end it goes up with 0.3 and else stays,
    at the upper end it stays with 0.3, which pays `large_reward`, and is carried down with 0.7. The start is the second
    or the third state, evenly. Swimming up is optimal.

    Args:
        num_states: S >= 3.
        small_reward: for `left` at the lower end, in reward units.
        large_reward: for staying at the upper end by `right`.
        horizon: T.
        temperature: alpha; rewards are large here.
        discount: in (0, 1].
    """
    as_count(num_states, "num_states", 3)
    names = [f"s{i}" for i in range(1, num_states + 1)]
    table: dict[str, dict[str, Outcomes]] = {}
    for i, name in enumerate(names):
        down = names[max(i - 1, 0)]
        if i == 0:
            swim: Outcomes = [(0.7, name, 0.0), (0.3, names[1], 0.0)]
        elif i < num_states - 1:
            swim = [(0.1, down, 0.0), (0.6, name, 0.0), (0.3, names[i + 1], 0.0)]
        else:
            swim = [(0.7, down, 0.0), (0.3, name, large_reward)]
        table[name] = {"left": [(1.0, down, small_reward if i == 0 else 0.0)], "right": swim}
    mdp, reward = tabulate(table, {names[1]: 0.5, names[2]: 0.5}, regions={"source": [names[-1]]})
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="river-swim")


def chain(
    slip: float = 0.2,
    *,
    num_states: int = 5,
    back_reward: float = 2.0,
    end_reward: float = 10.0,
    horizon: int | float = 20,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """Go on to the end, where 10 is paid for every step, or back to the start, for 2 at once.

    The chain of Dearden, Friedman and Russell 1998 ("Bayesian Q-learning", section 5) and of Strens 2000 ("A Bayesian
    framework for reinforcement learning", section 6). With probability `slip` the action has the effect of the other
    one. Always to go on is optimal, and with the defaults earns 0.2 * 2 + 0.8^5 * 10 = 3.6768 a step in the long run.

    Args:
        slip: probability that an action does what the other one should.
        num_states: S >= 2.
        back_reward: paid for every return to the start, in reward units.
        end_reward: paid for every step on at the end.
        horizon: T.
        temperature: alpha.
        discount: in (0, 1].
    """
    as_probability(slip, "slip")
    as_count(num_states, "num_states", 2)
    names = [f"s{i}" for i in range(1, num_states + 1)]
    table: dict[str, dict[str, Outcomes]] = {}
    for i, name in enumerate(names):
        onward = (names[i + 1], 0.0) if i + 1 < num_states else (name, end_reward)
        table[name] = _with_slip(slip, onward, (names[0], back_reward))
    mdp, reward = tabulate(table, names[0], regions={"end": [names[-1]]})
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="chain")


def double_chain(
    slip: float = 0.0,
    *,
    length: int = 5,
    back_reward: float = 2.0,
    long_reward: float = 10.0,
    short_reward: float = 5.0,
    horizon: int | float = 20,
    temperature: float = 1.0,
    discount: float = 1.0,
) -> TrajectoryModel:
    """Two chains from one start: the upper one ends in 10 a step, the lower one in 5, but pays 2 for its first step.

    The double chain of Furmston and Barber 2010 ("Variational methods for reinforcement learning", AISTATS), which
    doubles the one of Dearden and of Strens. At the start `on` enters the upper chain and `back` the lower one, for
    `back_reward`; elsewhere `on` goes on along the chain, and `back` to the start for `back_reward`. The greedy first
    step leads to the worse end, which holds whoever reaches it short of going all the way back.

    Args:
        slip: probability that an action does what the other one should.
        length: states of each chain, the start counted: S = 2 length - 1.
        back_reward: paid for every `back`, in reward units.
        long_reward: for every step on at the end of the upper chain.
        short_reward: for every step on at the end of the lower chain.
        horizon: T.
        temperature: alpha.
        discount: in (0, 1].
    """
    as_probability(slip, "slip")
    as_count(length, "length", 2)
    table: dict[str, dict[str, Outcomes]] = {"start": _with_slip(slip, ("up 1", 0.0), ("low 1", back_reward))}
    for side, pays in (("up", long_reward), ("low", short_reward)):
        for i in range(1, length):
            name = f"{side} {i}"
            onward = (f"{side} {i + 1}", 0.0) if i + 1 < length else (name, pays)
            table[name] = _with_slip(slip, onward, ("start", back_reward))
    mdp, reward = tabulate(table, "start", regions={"upper end": [length - 1], "lower end": [2 * length - 2]})
    return TrajectoryModel(mdp, reward, horizon, temperature, discount, name="double-chain")


def _with_slip(slip: float, onward: tuple[str, float], back: tuple[str, float]) -> dict[str, Outcomes]:
    """The actions `on` and `back`, whose effects are exchanged with probability `slip`; what is paid goes with them."""
    return {
        "on": [(1 - slip, *onward), (slip, *back)],
        "back": [(1 - slip, *back), (slip, *onward)],
    }
