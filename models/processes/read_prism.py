"""Reads explicit model files of the model checkers PRISM and Storm: `.tra`, `.sta`, `.lab` and files of rewards.

The formats are described in the PRISM manual, appendix "Explicit Model Files", and in Storm's documentation of explicit
models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cai.models.common.files import MissingFile, is_there, read_words
from cai.models.common.memory import require_memory
from cai.models.processes.mdp import MDP

__all__ = ["PrismModel", "read_prism"]

ROUNDING = 1e-4  # by how much a row of probabilities may miss 1: files are written with a few digits
STATE_REWARDS = (".srew", ".rews", ".state.rew", ".rew")
TRANSITION_REWARDS = (".trew", ".rewt", ".trans.rew")


class PrismModel(NamedTuple):
    """What the files hold.

    Attributes:
        mdp: the process; choices of a state are its actions. Its regions are the labels.
        rewards: by name, [S, A], or [S, A, K] where a reward depends on the outcome; what is paid in a state counts for
            each of its choices.
        labels: by name, bool [S].
    """

    mdp: MDP
    rewards: dict[str, Tensor]
    labels: dict[str, Tensor]


class _Choices(NamedTuple):
    """Transitions in the order of the file: source, choice, target, probability, and the name of the choice or ""."""

    source: np.ndarray
    choice: np.ndarray
    target: np.ndarray
    probability: np.ndarray
    name: list[str]
    num_states: int


def read_prism(stem: str | PathLike[str]) -> PrismModel:
    """Reads the files `STEM.tra`, and `STEM.sta`, `STEM.lab` and rewards where they are there.

    Markov decision processes and discrete-time Markov chains (one action) are read, as PRISM exports them and as Storm
    takes them. The start is the label "init" (its states alike), else state 0. Names of states are their variables,
    "x=1 y=0"; actions bear the names of the choices where every choice has one that is its own in its state, else
    numbers. Rewards of states are looked for in STEM.srew, STEM.rews, STEM.state.rew and STEM.rew, those of transitions
    in STEM.trew, STEM.rewt and STEM.trans.rew, each also with a number behind STEM; they are called as the comment
    `Reward structure "NAME"` says, else by that number, else "reward".

    Args:
        stem: path without its ending; that of the `.tra` file itself will do.

    Returns:
        (mdp, rewards, labels), for `TrajectoryModel(mdp, reward=rewards["reward"], horizon=...)`. No state is terminal:
        replace states that absorb and earn nothing by `terminal=labels["done"]` where that is meant.

    Raises:
        FileNotFoundError: if there is no STEM.tra.
        ValueError: if a file does not follow its format (file and line are named), is of another kind of model, or
            probabilities of a choice miss 1 by more than 1e-4.
    """
    stem = Path(stem)
    stem = stem.with_suffix("") if stem.suffix == ".tra" else stem
    path = _beside(stem, ".tra")
    if not is_there(path):
        raise MissingFile(f"there is no file {str(path)!r}; export the model with its transitions, STEM.tra")
    moves = _read_transitions(path)
    labels = _read_labels(_beside(stem, ".lab"), moves.num_states)
    names = _read_states(_beside(stem, ".sta"), moves.num_states)
    slots, mdp = _process(path, moves, names, labels)
    rewards: dict[str, Tensor] = {}
    for number, found in _reward_files(stem):
        for name, table in _read_rewards(found, number, moves, slots, mdp):
            rewards[name] = rewards[name] + table if name in rewards else table
    return PrismModel(mdp, {name: _smallest(table, mdp) for name, table in rewards.items()}, labels)


# ---- transitions ----------------------------------------------------------------------------------------------------


def _read_transitions(path: Path) -> _Choices:
    lines = list(_lines(path))
    kind = lines.pop(0)[1][0].lower() if lines and not lines[0][1][0][0].isdigit() else ""
    if kind not in ("", "mdp", "dtmc"):
        raise ValueError(f"{path} is of kind {kind!r}; expected an MDP or a DTMC, in discrete time")
    head = [len(words) for _, words in lines[:2]]
    sized = head == [3] or head[:1] == [2] or (head[:1] == [3] and head[1] > 3)
    announced = lines[0][1] if sized else ["0", "0"]
    if not all(word.isascii() and word.isdigit() for word in announced):
        raise ValueError(
            f"{path}, line {lines[0][0]}: expected the numbers of states, choices and transitions, got "
            f"{' '.join(announced)!r}"
        )
    size, count = int(announced[0]), int(announced[-1])
    chain = kind == "dtmc" or head[:1] == [2] or (not sized and head[:1] == [3])
    rows, names = [], []
    for number, words in lines[sized:]:
        needed = 3 if chain else 4
        try:
            row = [int(word) for word in words[: needed - 1]]
            rows.append((row[0], 0 if chain else row[1], row[-1], _number(words[needed - 1])))
        except (ValueError, IndexError, ZeroDivisionError):
            form = "SOURCE TARGET PROBABILITY" if chain else "SOURCE CHOICE TARGET PROBABILITY [NAME]"
            raise ValueError(f"{path}, line {number}: expected {form}, got {' '.join(words)!r}") from None
        names.append(words[needed] if len(words) > needed and not chain else "")  # a chain has nothing to choose
    if not rows:
        raise ValueError(f"{path} holds no transitions")
    if len(rows) < count:
        raise ValueError(f"{path} holds {len(rows)} transitions, and its first line announces {count}: it was cut off")
    source, choice, target, probability = (np.array(column) for column in zip(*rows, strict=True))
    largest = int(max(source.max(), target.max()))
    if min(source.min(), choice.min(), target.min()) < 0 or (sized and largest >= size):
        raise ValueError(
            f"{path} leads to state {largest}, and its first line announces {size} states: 0 to {size - 1}"
        )
    size, sources = max(size, largest + 1), np.unique(source)
    if len(sources) < size:  # before anything of this size is made
        bare = int(np.argmax(np.append(sources, -1) != np.arange(len(sources) + 1)))
        raise ValueError(f"{path}: state {bare} has no transition; export the model with deadlocks fixed (a loop)")
    return _Choices(source, choice, target, probability, names, size)


def _process(
    path: Path, moves: _Choices, names: list[str] | None, labels: dict[str, Tensor]
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], MDP]:
    """((state, action, outcome) of every transition; the process)."""
    size, width = moves.num_states, int(moves.choice.max()) + 1
    smaller = "number the choices of a state from 0 on, or make the model smaller"
    require_memory(
        100 * width + 16 * size * width, f"{path} has S = {size:,} states and A = {width:,} choices; that", smaller
    )
    action, action_names = _actions(moves)
    width = len(action_names)
    rows = moves.source * width + action
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=size * width)
    outcome = np.empty_like(rows)
    outcome[order] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    slots = (moves.source, action, outcome)
    most = int(counts.max())
    require_memory(80 * size * width * most, f"{path}: tables [S, A, K] = [{size:,}, {width:,}, {most:,}]", smaller)
    chances = np.zeros((size, width, int(counts.max())))
    leads = np.zeros(chances.shape, dtype=np.int64)
    chances[slots], leads[slots] = moves.probability, moves.target
    offered = (counts > 0).reshape(size, width)
    sums = chances.sum(-1)
    wrong = offered & ~((np.abs(sums - 1) <= ROUNDING) & (chances >= 0).all(-1))
    if wrong.any():
        state, number = np.argwhere(wrong)[0]
        raise ValueError(
            f"{path}: choice {action_names[number]} of state {state} sums to {sums[state, number]:.6g}; the "
            "probabilities of a choice are >= 0 and sum to 1 (rates of a CTMC do not)"
        )
    start = labels.get("init", torch.arange(size) == 0).double()
    mdp = MDP.from_successors(
        leads,
        chances / np.where(offered, sums, 1.0)[..., None],
        start / start.sum(),
        available=offered,
        state_names=names,
        action_names=action_names,
        regions={name: mask for name, mask in labels.items() if name != "init"},
    )
    return slots, mdp


def _actions(moves: _Choices) -> tuple[np.ndarray, list[str]]:
    """The action of every transition, and their names: those of choices where they tell choices apart, else numbers."""
    owners: dict[tuple[int, str], int] = {}
    for state, choice, name in zip(moves.source.tolist(), moves.choice.tolist(), moves.name, strict=True):
        if not name or owners.setdefault((state, name), choice) != choice:
            return moves.choice, [str(number) for number in range(int(moves.choice.max()) + 1)]
    known = {name: number for number, name in enumerate(dict.fromkeys(moves.name))}
    return np.array([known[name] for name in moves.name]), list(known)


# ---- states and labels ----------------------------------------------------------------------------------------------


def _read_states(path: Path, size: int) -> list[str] | None:
    """S names, "x=1 y=0"; None without a file."""
    if not is_there(path):
        return None
    lines = read_words(path).split()
    variables = lines[0].strip("()").split(",")
    names = [""] * size
    for line in lines[1:]:
        number, _, values = line.partition(":")
        pairs = zip(variables, values.strip("()").split(","), strict=False)
        if not number.isdigit() or int(number) >= size:
            raise ValueError(f"{path}: {line!r} names no state; expected NUMBER:(VALUES), with numbers 0 to {size - 1}")
        names[int(number)] = " ".join(f"{variable}={value}" for variable, value in pairs)
    if "" in names:
        raise ValueError(f"{path} names {size - names.count('')} of {size} states; state {names.index('')} is missing")
    if len(set(names)) < size:
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path} gives two states the values {twice!r}; each state has its own")
    return names


def _read_labels(path: Path, size: int) -> dict[str, Tensor]:
    """Labels of PRISM (`0="init" 1="done"`, then `3: 0 1`) or Storm (#DECLARATION init done #END, then `3 init`)."""
    if not is_there(path):
        return {}
    text = read_words(path)
    declared = re.search(r"#DECLARATION(.*?)#END", text, re.DOTALL)
    lines = (text[declared.end() :] if declared else text).splitlines()
    if declared:
        known = {name: name for name in declared[1].split()}
    else:
        pairs = re.findall(r'(\d+)="([^"]*)"', lines[0] if lines else "")
        known, lines = dict(pairs), lines[1:]
    labels = {name: torch.zeros(size, dtype=torch.bool) for name in known.values()}
    for line in lines:
        words = line.replace(":", " ").split()
        if not words or words[0].startswith("#"):
            continue
        if not words[0].isdigit() or int(words[0]) >= size or any(word not in known for word in words[1:]):
            raise ValueError(
                f"{path}: {line.strip()!r} is no line of labels; expected a state, 0 to {size - 1}, and some of "
                f"{', '.join(known)}"
            )
        for word in words[1:]:
            labels[known[word]][int(words[0])] = True
    if "init" in labels and not labels["init"].any():
        raise ValueError(f"{path} gives no state the label 'init'; mark where the model starts")
    return labels


# ---- rewards --------------------------------------------------------------------------------------------------------


def _reward_files(stem: Path) -> Iterator[tuple[str, Path]]:
    """(the number in its name or "", path) of every file of rewards."""
    endings = "|".join(re.escape(ending) for ending in (*STATE_REWARDS, *TRANSITION_REWARDS))
    pattern = re.compile(rf"{re.escape(stem.name)}(\d*)({endings})")
    for path in sorted(stem.parent.iterdir()):
        match = pattern.fullmatch(path.name)
        if match is not None:
            yield match[1], path


def _read_rewards(
    path: Path, number: str, moves: _Choices, slots: tuple[np.ndarray, np.ndarray, np.ndarray], mdp: MDP
) -> Iterator[tuple[str, Tensor]]:
    """(name, [S, A, K]) of one file."""
    titled = re.search(r'Reward structure:?\s+"([^"]+)"', read_words(path))
    table = np.zeros(tuple(mdp.probabilities.shape))
    lines = list(_lines(path))
    if path.name.endswith(STATE_REWARDS) and not path.name.endswith(TRANSITION_REWARDS):
        for line, words in lines[_header(lines, 2, mdp.num_states) :]:
            state, amount = _reward_row(path, line, words, ("STATE",), mdp.num_states)
            table[state[0]] += amount
    else:
        places = zip(moves.source.tolist(), moves.choice.tolist(), moves.target.tolist(), strict=True)
        where: dict[tuple[int, ...], list[int]] = {}
        for place, key in enumerate(places):
            where.setdefault(key, []).append(place)
        chain = mdp.num_actions == 1 and not any(len(words) > 3 for _, words in lines)
        form = ("SOURCE", "TARGET") if chain else ("SOURCE", "CHOICE", "TARGET")
        for line, words in lines[_header(lines, len(form), mdp.num_states) :]:
            ends, amount = _reward_row(path, line, words, form, mdp.num_states)
            found = where.get((ends[0], 0, ends[1]) if chain else tuple(ends))
            if found is None:
                raise ValueError(f"{path}, line {line}: the model has no transition {' '.join(words[:-1])}")
            for place in found:
                table[tuple(slot[place] for slot in slots)] += amount
    yield titled[1] if titled else number or "reward", torch.from_numpy(table)


def _header(lines: list[tuple[int, list[str]]], width: int, size: int) -> int:
    """1 if the first line announces sizes: as many words as sizes are announced, all whole, S first."""
    first = lines[0][1] if lines else []
    whole = all(word.isdigit() for word in first)
    return int(whole and len(first) == width and int(first[0]) == size) if first else 0


def _reward_row(path: Path, line: int, words: list[str], form: tuple[str, ...], size: int) -> tuple[list[int], float]:
    try:
        places = [int(word) for word in words[: len(form)]]
        amount = _number(words[len(form)])
    except (ValueError, IndexError, ZeroDivisionError):
        raise ValueError(f"{path}, line {line}: expected {' '.join(form)} REWARD, got {' '.join(words)!r}") from None
    if not 0 <= places[0] < size:
        raise ValueError(f"{path}, line {line}: there is no state {places[0]}; states are 0 to {size - 1}")
    if not amount < np.inf:
        raise ValueError(
            f"{path}, line {line}: the reward is {amount}; rewards are numbers, or -inf for what is forbidden"
        )
    return places, amount


def _smallest(table: Tensor, mdp: MDP) -> Tensor:
    """[S, A] of a reward [S, A, K] that no possible outcome changes."""
    possible = mdp.probabilities > 0
    largest = torch.where(possible, table, -torch.inf).amax(-1)
    return largest if bool((~possible | (table == largest[..., None])).all()) else table


def _number(word: str) -> float:
    """A number as it is written: 0.25, 2.5e-1, or 1/4, as exact engines export."""
    return float(Fraction(word)) if "/" in word else float(word)


def _beside(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number, words) of the lines that are neither empty nor a comment."""
    for number, line in enumerate(read_words(path).splitlines(), 1):
        words = line.split("#")[0].split()
        if words:
            yield number, words
