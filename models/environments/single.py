"""One environment of a model, for libraries that want no vectors of them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from cai.models.environments.vector import ModelVectorEnvironment

__all__ = ["ModelEnvironment"]


class ModelEnvironment(gymnasium.Env[Any, Any]):
    """A model as an environment; see `cai.models.environment`.

    Args:
        copies: a vector environment of one copy.
        draw: makes the picture [height, width, 3] of a state; None where there is none.
        render_mode: "rgb_array", or None.
    """

    def __init__(self, copies: ModelVectorEnvironment, draw: Any, render_mode: str | None) -> None:
        self._copies, self._draw = copies, draw
        self.metadata = {"render_modes": [] if draw is None else ["rgb_array"], "render_fps": 4}
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(
                f"render_mode is {render_mode!r}; this model knows {self.metadata['render_modes']}"
                + ("" if draw is not None else ": it has no layout to draw, so leave it out")
            )
        self.render_mode = render_mode
        self.observation_space = copies.single_observation_space
        self.action_space = copies.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode.

        Args:
            seed: of the episode and of those after it; they go on where they were, unless given.
            options: nothing is known.

        Returns:
            The observation and infos.
        """
        super().reset(seed=seed)
        observations, info = self._copies.reset(seed=seed)
        return _first(observations), _firsts(info)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Takes an action.

        Args:
            action: of the action space.

        Returns:
            Observation, reward in reward units, terminated, truncated and infos.

        Raises:
            TypeError, ValueError: if the action cannot be taken.
        """
        observations, rewards, terminated, truncated, info = self._copies.step(np.asarray(action)[None])
        return (
            _first(observations),
            float(rewards[0]),
            bool(terminated[0]),
            bool(truncated[0]),
            _firsts(info),
        )

    def render(self) -> Any:
        """The picture uint8 [height, width, 3] of the present state; None without a render mode."""
        return None if self.render_mode is None else self._draw(self._copies.states[0])


def _first(observations: np.ndarray) -> Any:
    return observations[0]


def _firsts(info: dict[str, Any]) -> dict[str, Any]:
    return {name: values[0] for name, values in info.items()}
