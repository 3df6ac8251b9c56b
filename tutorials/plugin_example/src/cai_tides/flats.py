"""A model: the short way over the flats, or the long way along the dyke."""

from cai.models import MDP, Goal, StepCost, TrajectoryModel


def tidal_flats(*, horizon: int = 8, temperature: float = 1.0, discount: float = 1.0) -> TrajectoryModel:
    """Wade across the flats to an island, or walk round along the dyke.

    Args:
        horizon: T.
        temperature: alpha.
        discount: in (0, 1].
    """
    names = ["shore", "flats", "dyke", "dam", "island"]
    # wade and walk; one step in five over the flats gets nowhere
    ways = [[[1, 0], [2, 2]], [[4, 1], [0, 0]], [[1, 1], [3, 3]], [[3, 3], [4, 4]], [[4, 4], [4, 4]]]
    chances = [[[0.8, 0.2], [1.0, 0.0]], [[0.8, 0.2], [1.0, 0.0]], *[[[1.0, 0.0], [1.0, 0.0]]] * 3]
    mdp = MDP.from_successors(
        ways,
        chances,
        [1.0, 0.0, 0.0, 0.0, 0.0],
        terminal=["island"],
        state_names=names,
        action_names=["wade", "walk"],
        regions={"flats": ["flats"], "arrived": ["island"]},
    )
    return TrajectoryModel(mdp, Goal("island", 5.0) + StepCost(0.5), horizon, temperature, discount, name="tidal-flats")
