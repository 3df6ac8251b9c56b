"""Reads `.POMDP` files, the text format of Cassandra's solvers (pomdp.org, "POMDP File Format")."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from cai.models.common.files import read_words
from cai.models.common.memory import require_memory
from cai.models.common.names import did_you_mean
from cai.models.processes.mdp import MDP
from cai.models.processes.observation import ObservationModel

__all__ = ["POMDPFile", "read_pomdp"]

KEYWORDS = ("discount", "values", "states", "actions", "observations", "start", "T", "O", "R")
ROUNDING = 1e-4  # by how much a row of probabilities may miss 1: files are written with a few digits
DENSE_STATES = 256  # up to as many states transitions stay a table [S, A, S]


class POMDPFile(NamedTuple):
    """What a file holds.

    Attributes:
        mdp: the process, its states and actions named as in the file.
        reward: [S, A], or [S, A, K] where it depends on the next state, K being the outcomes of `mdp`.
        observations: p(o | a, s'); None where the file declares no observations.
        discount: gamma, in (0, 1].
    """

    mdp: MDP
    reward: Tensor
    observations: ObservationModel | None
    discount: float


def read_pomdp(path: str | PathLike[str]) -> POMDPFile:
    """Reads a `.POMDP` file, or one without observations (an MDP in the same format).

    Every form of the format is read: names or numbers, wildcards `*`, single entries, rows and matrices, `uniform`,
    `identity` and `reset`, `start` as a distribution, a state or a list of states to include or exclude, and
    `values: cost`, which turns costs into rewards. What a later line says replaces what an earlier one said. Nothing
    is seen before the first action, as in the format.

    Args:
        path: of the file.

    Returns:
        (mdp, reward, observations, discount), for
        `TrajectoryModel(mdp, reward=reward, horizon=..., discount=discount)`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the text does not follow the format (file and line are named), if probabilities miss 1 by more
            than 1e-4, or if a reward depends on the observation.
    """
    return _Reader(Path(path)).read()


class _Reader:
    """Goes through the words of one file."""

    def __init__(self, path: Path) -> None:
        self.path, self.at = path, 0
        self.words: list[tuple[str, int]] = []
        for number, line in enumerate(read_words(path).splitlines(), 1):
            spaced = line.split("#")[0].replace(":", " : ")
            self.words += [(word, number) for word in spaced.split()]
        self.names: dict[str, list[str]] = {}
        self.discount, self.sign = 1.0, 1.0
        self.start: Callable[[], np.ndarray] | None = None

    def read(self) -> POMDPFile:
        """The whole file."""
        while self.at < len(self.words) and self._word() not in ("T", "O", "R"):
            self._preamble(self._take())
        for needed in ("states", "actions"):
            if needed not in self.names:
                self._fail(f"there is no line '{needed}:' before the first T, O or R")
        size, actions, seen = (len(self.names.get(key, ())) for key in ("states", "actions", "observations"))
        require_memory(
            8 * actions * size * (4 * size + seen),
            f"{self.path} has S = {size:,} states and A = {actions:,} actions, and reading its tables [A, S, S]",
            "make the problem smaller, or build it with MDP.from_sparse or MDP.from_successors",
        )
        start = np.full(size, 1.0 / size) if self.start is None else self.start()
        moves, shows = np.zeros((actions, size, size)), np.zeros((actions, size, seen))
        rewards = np.zeros((actions, size, size, 1))  # a column an observation, once a line names one
        while self.at < len(self.words):
            kind = self._take()
            if kind == "T":
                self._probabilities(moves, "states", start)
            elif kind == "O" and seen:
                self._probabilities(shows, "observations", None)
            elif kind == "R":
                rewards = self._reward(rewards, max(seen, 1))
            else:
                self._fail(f"expected T, {'O, ' * bool(seen)}or R, got {kind!r}", back=1)
        moves, shows = self._rows(moves, "T"), self._rows(shows, "O") if seen else shows
        return self._finish(start, moves, shows, rewards)

    # ---- the parts of a file ------------------------------------------------------------------------------------

    def _preamble(self, word: str) -> None:
        if word == "start":
            self._start()
            return
        if word not in KEYWORDS:
            self._fail(f"expected one of {', '.join(KEYWORDS)}, got {word!r}", back=1)
        self._expect(":")
        if word == "discount":
            self.discount = self._number()
            if not 0 < self.discount <= 1:
                self._fail(f"discount is {self.discount}; expected a number in (0, 1]", back=1)
        elif word == "values":
            kind = self._take()
            if kind not in ("reward", "cost"):
                self._fail(f"values is {kind!r}; expected reward or cost", back=1)
            self.sign = -1.0 if kind == "cost" else 1.0
        else:
            names = self._list()
            if len(names) == 1 and names[0].isdigit():
                count = int(names[0])
                size = max(100 * count, 32 * count**2 * (word == "states"))  # names; of states tables [S, S], too
                require_memory(size, f"{self.path} has {names[0]} {word}, and reading it", "correct it")
                names = [str(number) for number in range(count)]
            if not names or len(set(names)) != len(names):
                self._fail(f"{word} lists {len(set(names))} different names among {len(names)}; each needs its own")
            self.names[word] = names

    def _start(self) -> None:
        """`start:` and `start include:` or `start exclude:`; states may be declared behind it."""
        kind = "" if self._word() == ":" else self._take()
        self._expect(":")
        begin, given = self.at, self._list()

        def distribution() -> np.ndarray:
            end, self.at = self.at, begin
            size = len(self.names["states"])
            result = np.zeros(size)
            if kind == "" and given == ["uniform"]:
                result[:] = 1.0 / size
            elif kind == "" and len(given) == size and all(_is_number(word) for word in given) and given != ["0"]:
                result[:] = [float(word) for word in given]
            else:
                for _ in given:
                    result[self._index("states")] = 1.0
                result = 1.0 - result if kind == "exclude" else result
                result /= max(result.sum(), 1.0)
            self.at = begin
            if kind not in ("", "include", "exclude") or abs(result.sum() - 1) > ROUNDING or (result < 0).any():
                self._fail(
                    f"start {kind} {' '.join(given[:6])} is no distribution over the {size} states; give {size} "
                    "probabilities, 'uniform', one state, or 'start include: STATES'"
                )
            self.at = end
            return result / result.sum()

        self.start = distribution

    def _probabilities(self, table: np.ndarray, kind: str, start: np.ndarray | None) -> None:
        """One statement T or O, into [A, S, S] or [A, S, Z]."""
        actions = self._colon_index("actions")
        if not self._colon_follows():
            self._fill(table, (actions, slice(None)), table.shape[1:], start)
            return
        states = self._colon_index("states")
        if self._colon_follows():
            ends = self._colon_index(kind)
            table[actions, states, ends] = self._number()
        else:
            self._fill(table, (actions, states), table.shape[2:], start)

    def _fill(
        self, table: np.ndarray, place: tuple[slice, slice], shape: tuple[int, ...], start: np.ndarray | None
    ) -> None:
        word = self._word()
        if word == "uniform":
            table[place] = 1.0 / shape[-1]
        elif word == "identity" and len(shape) == 2 and shape[0] == shape[1]:
            table[place] = np.eye(shape[0])
        elif word == "reset" and start is not None:
            table[place] = start
        else:
            table[place] = self._numbers(shape)
            return
        self.at += 1

    def _reward(self, table: np.ndarray, seen: int) -> np.ndarray:
        """One statement R, into [A, S, S, 1], which becomes [A, S, S, Z] once a line tells observations apart."""
        actions, states = self._colon_index("actions"), self._colon_index("states")
        following, shown = slice(None), slice(None)
        shape: tuple[int, ...] = (table.shape[2], seen)
        if self._colon_follows():
            following, shape = self._colon_index("states"), (1, seen)
            if self._colon_follows():
                shown, shape = self._colon_index("observations"), (1, 1)
        values = self.sign * self._numbers(shape)
        apart = shown != slice(None) or bool((values != values[:, :1]).any())
        if apart and table.shape[-1] < seen:
            table = np.broadcast_to(table, (*table.shape[:-1], seen)).copy()
        table[actions, states, following, shown] = values if apart else values[:, :1]
        return table

    def _rows(self, table: np.ndarray, letter: str) -> np.ndarray:
        """Probabilities whose rows sum to 1, rounding mended."""
        sums = table.sum(-1)
        wrong = (np.abs(sums - 1) > ROUNDING) | (table < 0).any(-1)
        if wrong.any():
            action, state = np.argwhere(wrong)[0]
            where = f"{letter}: {self.names['actions'][action]} : {self.names['states'][state]}"
            raise ValueError(
                f"{self.path}: the row {where} sums to {sums[action, state]:.6g} (its smallest entry is "
                f"{table[action, state].min():.3g}); probabilities are >= 0 and sum to 1: complete the file"
            )
        return table / sums[..., None]

    def _finish(self, start: np.ndarray, moves: np.ndarray, shows: np.ndarray, rewards: np.ndarray) -> POMDPFile:
        names = self.names
        if rewards.shape[-1] > 1:
            seen = (shows[:, None] > 0) & (moves[..., None] > 0)
            highest, lowest = (np.where(seen, rewards, worst) for worst in (-np.inf, np.inf))
            differs = highest.max(-1) > lowest.min(-1)
            if differs.any():
                action, state, _ = np.argwhere(differs)[0]
                raise ValueError(
                    f"{self.path}: the reward R: {names['actions'][action]} : {names['states'][state]} differs from "
                    "observation to observation; here rewards depend on state, action and next state alone: write its "
                    "mean over the observations of the next state, or make what is seen part of the state"
                )
            known = np.where(seen.any(-1), highest.max(-1), rewards.max(-1))
            rewards = known[..., None]
        transitions, by_outcome = moves.transpose(1, 0, 2), rewards[..., 0].transpose(1, 0, 2)
        states, taken = names["states"], names["actions"]
        if len(start) <= DENSE_STATES:
            mdp = MDP(transitions, start, state_names=states, action_names=taken, axes="state-action-state")
        else:
            width = int((transitions > 0).sum(-1).max())
            leads = np.argsort(transitions <= 0, axis=-1, kind="stable")[..., :width]
            chances, by_outcome = (np.take_along_axis(part, leads, -1) for part in (transitions, by_outcome))
            mdp = MDP.from_successors(leads, chances, start, state_names=states, action_names=taken)
        reward, possible = torch.from_numpy(np.ascontiguousarray(by_outcome)), mdp.probabilities > 0
        largest = torch.where(possible, reward, -torch.inf).amax(-1)
        if bool((~possible | (reward == largest[..., None])).all()):
            reward = largest
        observations = ObservationModel(shows, names["observations"]) if shows.shape[-1] else None
        return POMDPFile(mdp, reward, observations, self.discount)

    # ---- words --------------------------------------------------------------------------------------------------

    def _word(self, ahead: int = 0) -> str:
        return self.words[self.at + ahead][0] if self.at + ahead < len(self.words) else ""

    def _take(self) -> str:
        if self.at >= len(self.words):
            self._fail("the file ends in the middle of a statement")
        self.at += 1
        return self.words[self.at - 1][0]

    def _expect(self, word: str) -> None:
        if self._take() != word:
            self._fail(f"expected {word!r}, got {self._word(-1)!r}", back=1)

    def _colon_follows(self) -> bool:
        return self._word() == ":"

    def _list(self) -> list[str]:
        """Words up to the next statement."""
        found = []
        while self.at < len(self.words):
            word, behind = self._word(), self._word(1)
            if behind == ":" or (word == "start" and behind in ("include", "exclude")):
                break
            found.append(self._take())
        return found

    def _colon_index(self, kind: str) -> slice:
        self._expect(":")
        return self._index(kind)

    def _index(self, kind: str) -> slice:
        """The place of a name or number, as a slice; all of them for `*`."""
        word, names = self._take(), self.names.get(kind, [])
        if word == "*":
            return slice(None)
        if word in names:
            number = names.index(word)
        elif word.isdigit() and int(word) < len(names):
            number = int(word)
        else:
            self._fail(f"{word!r} is none of the {len(names)} {kind}{did_you_mean(word, names)}", back=1)
        return slice(number, number + 1)

    def _number(self) -> float:
        return float(self._numbers(()))

    def _numbers(self, shape: tuple[int, ...]) -> np.ndarray:
        count = int(np.prod(shape))
        for number in range(count):
            if not _is_number(self._word()):
                self._fail(f"expected {count} numbers, got {self._word()!r} as number {number + 1}")
            self.at += 1
        words = [word for word, _ in self.words[self.at - count : self.at]]
        return np.array(words, dtype=float).reshape(shape)

    def _fail(self, text: str, back: int = 0) -> NoReturn:
        at = min(self.at - back, len(self.words) - 1)
        raise ValueError(f"{self.path}, line {self.words[at][1] if self.words else 1}: {text}")


def _is_number(word: str) -> bool:
    try:
        return bool(np.isfinite(float(word)))
    except ValueError:
        return False
