"""A ring of transitions, one row of float32 each, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from cai.models.common.files import StorageError
from cai.models.common.memory import require_memory

__all__ = ["Batch", "Buffer", "Columns", "flattened"]

BLOCK = 8192  # rows of a file
SPREAD = 0x9E3779B1  # odd, of 32 bits that look like chance


class Batch(NamedTuple):
    """Transitions.

    Attributes:
        observations: [B, n].
        actions: [B, d], as they are kept (in [-1, 1], or before tanh), or [B, 1], numbers of discrete actions.
        rewards: [B], reward units.
        next_observations: [B, n], the episode's own, never those after a reset.
        terminated: [B], 1 where nothing follows, else 0.
        allowed: [B, A], 1 where an action is available; None where all always are, or in a box.
        next_allowed: [B, A], the same of the next observation.
        ends: [B], 1 where the episode ended, terminated or truncated; None where that is not kept.
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminated: Tensor
    allowed: Tensor | None
    next_allowed: Tensor | None
    ends: Tensor | None = None


def _with_checks(rows: Tensor, first: int) -> Tensor:
    """Int32 [N, width + 1]: rows [N, width] as they are in memory, and a sum of each by which damage is seen.

    Factors of the sum are odd, so that it changes with every single number; each row's also holds its place.
    """
    words = rows.view(torch.int32).long()
    places = first + torch.arange(len(rows))
    sums = (words * (2 * torch.arange(1, rows.shape[1] + 1) * SPREAD + 1)).sum(1) + (places + 1) * SPREAD
    kept = (sums & 0xFFFFFFFF) - ((sums & 0x80000000) << 1)  # the lower 32 bits
    return torch.cat([words, kept[:, None]], 1).int()


def flattened(batch: Batch) -> Batch:
    """Steps [n, B, ...] as [n B, ...]."""
    return Batch._make(None if part is None else part.flatten(0, 1) for part in batch)


class Columns(NamedTuple):
    """How a row is laid out: observation, action, reward, terminated, next observation, end, and both masks.

    Attributes:
        observation: n.
        action: d.
        mask: A, or 0 where all actions are always available.
        ends: whether there is a column for ends of episodes.
    """

    observation: int
    action: int
    mask: int
    ends: bool = False

    @property
    def width(self) -> int:
        """Of a row."""
        return 2 * self.observation + self.action + 2 + int(self.ends) + 2 * self.mask


class Buffer:
    """The last `capacity` transitions.

    Args:
        capacity: rows.
        columns: of a row.

    Attributes:
        total: transitions that were ever added.
    """

    def __init__(self, capacity: int, columns: Columns) -> None:
        what = f"a buffer of {capacity:,} transitions of {columns.width} numbers"
        require_memory(4 * capacity * columns.width, what, "lower buffer_size")
        self.capacity, self.columns, self.total = capacity, columns, 0
        self._rows = torch.empty(capacity, columns.width, dtype=torch.float32)
        self._stored = 0

    @property
    def size(self) -> int:
        """Rows that are there."""
        return min(self.total, self.capacity)

    def add(self, rows: Tensor) -> None:
        """Adds rows [N, width], N at most the capacity."""
        at = self.total % self.capacity
        first = min(len(rows), self.capacity - at)
        self._rows[at : at + first] = rows[:first]
        if first < len(rows):
            self._rows[: len(rows) - first] = rows[first:]
        self.total += len(rows)

    def sample(self, number: int, generator: torch.Generator) -> Batch:
        """Rows drawn with replacement."""
        return self._batch(self._rows.index_select(0, torch.randint(self.size, (number,), generator=generator)))

    def paths(self, number: int, length: int, copies: int, generator: torch.Generator) -> Batch:
        """Steps that follow each other in one copy of the world, [length, number, ...], drawn with replacement.

        A path runs on through ends of episodes, which `ends` tells.

        Args:
            number: of paths.
            length: steps of a path, of which the ring holds at least one.
            copies: N; rows were added N at once.
            generator: of the draws.
        """
        starts = self.size - (length - 1) * copies
        first = self._first() + torch.randint(starts, (number,), generator=generator)
        places = (first + copies * torch.arange(length)[:, None]) % self.capacity
        return self._batch(self._rows[places])

    def newest(self, length: int, copies: int) -> Batch:
        """The last steps of every copy of the world, in their order, [length, N, ...]."""
        rows = self._numbers(self.total - length * copies, self.total)
        return self._batch(rows.reshape(length, copies, self.columns.width))

    def _batch(self, rows: Tensor) -> Batch:
        """The parts of rows [..., width]."""
        seen, acted, mask, ends = self.columns
        sizes = [seen, acted, 1, 1, seen, *([1] if ends else []), *([mask, mask] if mask else [])]
        observations, actions, rewards, terminated, following, *more = rows.split(sizes, -1)
        last = more.pop(0)[..., 0] if ends else None
        allowed, next_allowed = more if more else (None, None)
        return Batch(observations, actions, rewards[..., 0], following, terminated[..., 0], allowed, next_allowed, last)

    # ---- files --------------------------------------------------------------------------------------------------

    def _first(self) -> int:
        """The first row, counted from the first ever, that is still there."""
        return max(0, self.total - self.capacity)

    def _numbers(self, first: int, last: int) -> Tensor:
        """Rows first .. last - 1, counted from the first ever."""
        return self._rows[torch.arange(first, last) % self.capacity]

    def store(self, folder: Path) -> None:
        """Appends the rows that no file holds yet to blocks of fixed size, `buffer-<number>.bin`."""
        at = max(self._stored, self._first())
        while at < self.total:
            block, offset = divmod(at, BLOCK)
            last = min(self.total, (block + 1) * BLOCK)
            path = folder / f"buffer-{block:08d}.bin"
            with path.open("r+b" if path.exists() else "wb") as file:
                file.seek(4 * offset * (self.columns.width + 1))
                file.write(_with_checks(self._numbers(at, last), at).numpy().tobytes())
                file.truncate()
            at = last
        self._stored = self.total

    def discard(self, folder: Path) -> None:
        """Removes the blocks of which no row is left in the ring, and blanks such rows of the first block that stays.

        So the files depend on the ring alone, not on when it was stored.
        """
        first, offset = divmod(self._first(), BLOCK)
        for path in folder.glob("buffer-*.bin"):
            if int(path.stem[7:]) < first:
                path.unlink()
            elif int(path.stem[7:]) == first and offset:
                with path.open("r+b") as file:
                    file.write(bytes(4 * offset * (self.columns.width + 1)))

    def restore(self, folder: Path, total: int) -> None:
        """Reads the rows that a state of so many transitions had, and cuts off what was written after it.

        Raises:
            StorageError: if a file is missing or too short, or holds other numbers than were written.
        """
        self.total = self._stored = total
        width = self.columns.width + 1
        for block in range(self._first() // BLOCK, -(-total // BLOCK)):
            path = folder / f"buffer-{block:08d}.bin"
            last = min(total, (block + 1) * BLOCK)
            needed = 4 * (last - block * BLOCK) * width
            content = path.read_bytes() if path.exists() else b""
            if len(content) < needed:
                raise StorageError(f"{str(path)!r} is missing or too short; take a copy of the run, or start anew")
            written = torch.frombuffer(bytearray(content[:needed]), dtype=torch.int32).reshape(-1, width)
            first = max(self._first(), block * BLOCK)
            written = written[first - block * BLOCK :]
            rows = written[:, :-1].contiguous().view(torch.float32)
            if not torch.equal(_with_checks(rows, first), written):
                raise StorageError(
                    f"{str(path)!r} is damaged: its numbers are not those that were written; take a copy of the run, "
                    "or start anew"
                )
            self._rows[torch.arange(first, last) % self.capacity] = rows
            if len(content) > needed:
                with path.open("r+b") as file:
                    file.truncate(needed)
        for path in folder.glob("buffer-*.bin"):
            if int(path.stem[7:]) * BLOCK >= total:
                path.unlink()
