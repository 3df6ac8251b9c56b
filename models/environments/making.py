"""Models as Gymnasium environments: one, or a vector of copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cai.models.common.checks import as_count
from cai.models.continuous.world import World
from cai.models.trajectory.model import TrajectoryModel

if TYPE_CHECKING:
    from cai.models.environments.single import ModelEnvironment
    from cai.models.environments.vector import ModelVectorEnvironment

__all__ = ["environment", "vector_environment"]


def vector_environment(
    model: TrajectoryModel | World,
    num_envs: int,
    *,
    observe: Any = "one-hot",
    seed: int | None = None,
    max_episode_steps: int | None = None,
    observation_space: Any = None,
) -> ModelVectorEnvironment:
    """N copies of a model as a `gymnasium.vector.VectorEnv`, all moved by one operation.

    Arrays are NumPy's. Nothing resets itself (`AutoresetMode.DISABLED`): `reset(options={"reset_mask": mask})` resets
    some copies and changes nothing of the others; `reset(seed=[...])` gives each copy a seed of its own, and what a
    copy does depends on its seed and its actions alone. `terminated` says that the next state is terminal or t has
    reached the horizon T; `truncated` that `max_episode_steps` is reached and the copy has not terminated. Rewards are
    float64, those of the outcomes that were drawn, in reward units. A discount is left to the learner: no copy falls.

    Args:
        model: a `TrajectoryModel`, or a continuous model (whose copies are moved one by one where its dynamics are
            random).
        num_envs: N.
        observe: "one-hot": float32 [N, S], over a finite horizon [N, S + 1] with t / T last; "index": int64 [N], over
            a finite horizon [N, 2] with columns s and t (`MultiDiscrete([S, T + 1])`); or a function of (states
            [N, ...], t int64 [N]), arrays of NumPy. Of a continuous model the states are seen, float64 [N, n], over a
            finite horizon [N, n + 1] with t / T last.
        seed: of the first reset, copy i taking seed + i; the operating system's, unless given.
        max_episode_steps: episodes are cut after so many; never, unless given.
        observation_space: of what a function `observe` returns for one copy.

    Returns:
        The vector environment. Of a `TrajectoryModel`, `info["action_mask"]` int8 [N, A] says what can be done next; an
        action that is not available is refused.

    Raises:
        TypeError, ValueError: if the model is none of these, or an option does not fit it.
    """
    # These load Gymnasium, which takes a second.
    from cai.models.environments.copies import ContinuousCopies, Copies, TableCopies
    from cai.models.environments.observers import see_states, see_table
    from cai.models.environments.vector import ModelVectorEnvironment

    number = as_count(num_envs, "num_envs")
    limit = None if max_episode_steps is None else as_count(max_episode_steps, "max_episode_steps")
    copies: Copies
    if isinstance(model, TrajectoryModel):
        observer = see_table(observe, observation_space, model.mdp.num_states, model.horizon)
        copies = TableCopies(model, number)
    elif isinstance(model, World):
        copies = ContinuousCopies(model, number)
        observer = see_states(observe, observation_space, model.state_dim, model.horizon)
    else:
        raise TypeError(
            f"the model is a {type(model).__name__}; expected a TrajectoryModel or a continuous model. A Gymnasium "
            "environment becomes a world by cai.models.environment_model(...), whose make(num_envs) is a vector"
        )
    return ModelVectorEnvironment(copies, observer, number, seed, limit)


def environment(
    model: TrajectoryModel | World,
    *,
    observe: Any = "one-hot",
    seed: int | None = None,
    max_episode_steps: int | None = None,
    observation_space: Any = None,
    render_mode: str | None = None,
) -> ModelEnvironment:
    """A model as one `gymnasium.Env`; with the same seed it does what one copy of `vector_environment` does.

    Args:
        model: a `TrajectoryModel` or a continuous model.
        observe: as for `vector_environment`; observations have no axis for copies here.
        seed: of the first reset; the operating system's, unless given.
        max_episode_steps: episodes are cut after so many; never, unless given.
        observation_space: of what a function `observe` returns, which is called with arrays of one state and one time.
        render_mode: "rgb_array" for pictures, where the process has a layout.

    Raises:
        TypeError, ValueError: if the model is none of these, or an option does not fit it.
    """
    from cai.models.environments.drawing import draw_cells
    from cai.models.environments.single import ModelEnvironment

    copies = vector_environment(
        model,
        1,
        observe=observe,
        seed=seed,
        max_episode_steps=max_episode_steps,
        observation_space=observation_space,
    )
    draw = draw_cells(model) if isinstance(model, TrajectoryModel) and model.mdp.layout is not None else None
    return ModelEnvironment(copies, draw, render_mode)
