"""How models leave the process that made them: files, pickles and deep copies."""

from __future__ import annotations

import contextlib
import copy
import pickle
from pathlib import Path
from typing import Any, ClassVar, Self

from cai.models.common.names import KnownNames
from cai.models.common.storage import save

__all__ = ["Portable"]


class Portable(KnownNames):
    """Saves, pickles and deep-copies an object whose rewards may be Python code.

    Files and pickles hold numbers. A reward that cannot go along (a lambda, a function made inside another) goes as the
    table of what it pays; gradients stay behind. A deep copy shares what carries an autograd history, so that its
    gradients reach the same leaves.
    """

    _made_anew: ClassVar[tuple[str, ...]]  # attributes that are computed again when they are asked for
    _code: ClassVar[str]  # the attribute that may hold Python code

    def evaluated_reward(self) -> Any:
        """What stands for the rewards where their code cannot go: tables without gradients."""
        raise NotImplementedError

    def save(self, path: str | Path) -> Path:
        """Writes tables, names and layout to a file that `cai.load` reads, without gradients; returns the path.

        A reward that is made of Python code is saved as the table of what it pays.
        """
        return save(path, self)

    def _state(self) -> dict[str, Any]:
        return {name: part for name, part in self.__dict__.items() if name not in self._made_anew}

    def __getstate__(self) -> dict[str, Any]:
        state = self._state()
        try:
            pickle.dumps(state[self._code])
        except (pickle.PicklingError, AttributeError, TypeError):
            state[self._code] = self.evaluated_reward()
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied, state = object.__new__(type(self)), self._state()
        memo[id(self)] = copied
        for name, part in state.items():
            if name == self._code or isinstance(part, Portable):
                with contextlib.suppress(RuntimeError):  # torch copies no tensor that has a history
                    state[name] = copy.deepcopy(part, memo)
        copied.__setstate__(state)
        return copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
