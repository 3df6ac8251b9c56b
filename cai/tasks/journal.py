"""A folder that keeps the finished part of a study, so that one which was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cai.models.common.files import StorageError, as_folder, is_there, make_folder, write_atomically
from cai.models.common.storage import load, save

__all__ = ["Journal"]

FILE = "study.json"
LAYOUT = 1
DIGEST = 64  # hexadecimal digits, which say nothing to a reader

logger = logging.getLogger("cai.tasks")


class Journal:
    """What of a study is done, in a folder: what was asked (`study.json`), and a file for each chunk of tasks.

    Files are written by the process that asks, each of them whole or not at all, so a kill costs what was not finished.
    A file that was damaged since is named in a warning, and its tasks are done again.

    Args:
        folder: made if need be.
        question: {part: words or a fingerprint}; one that differs from that of the folder is refused.
        to_file: results of a chunk as a file can hold them; as they are unless given.
        from_file: the other way round.

    Raises:
        ValueError: if the folder is "", or keeps a study that asks something else; names what differs.
        StorageError: if the folder cannot be written, or its `study.json` not be read.
    """

    def __init__(
        self,
        folder: str | Path,
        question: Mapping[str, str],
        *,
        to_file: Callable[[Any], Any] | None = None,
        from_file: Callable[[Any], Any] | None = None,
    ) -> None:
        self.folder = as_folder(folder)
        self.question = dict(question)
        self.key = hashlib.sha256(json.dumps(self.question).encode()).hexdigest()
        self._to_file, self._from_file = to_file, from_file
        make_folder(self.folder, "a study")
        place = self.folder / FILE
        if is_there(place):
            self._compare(_read_question(place))
        else:
            text = json.dumps({"layout": LAYOUT, "question": self.question}, indent=1, ensure_ascii=False)
            write_atomically(place, (text + "\n").encode())

    def _compare(self, before: dict[str, str]) -> None:
        if before == self.question:
            return
        name = next(n for n in [*before, *self.question] if before.get(n) != self.question.get(n))
        old, new = before.get(name), self.question.get(name)
        told = (
            ""
            if old is None or new is None or len(old) == len(new) == DIGEST
            else f": {old:.200} before, {new:.200} now"
        )
        raise ValueError(
            f"{str(self.folder)!r} keeps a study that asks something else, and differs in the {name}{told}; give "
            "another folder, or ask as before"
        )

    def path(self, number: int) -> Path:
        """The file of a chunk."""
        return self.folder / f"tasks-{number:03d}.safetensors"

    def done(self, count: int) -> dict[int, list[Any]]:
        """{number: results} of the chunks that are done.

        Args:
            count: how many chunks there are.
        """
        found = {}
        for number in range(count):
            if self.path(number).exists():
                try:
                    found[number] = self._read(number)
                except StorageError as error:
                    logger.warning("%s; its tasks are done again", error)
        return found

    def keep(self, number: int, results: list[Any]) -> list[Any]:
        """Writes the results of a chunk, and returns them as they will be read."""
        kept = results if self._to_file is None else [self._to_file(result) for result in results]
        save(self.path(number), {"question": self.key, "chunk": number, "results": kept})
        return self._read(number)

    def _read(self, number: int) -> list[Any]:
        path = self.path(number)
        content = load(path)
        known = isinstance(content, dict) and set(content) == {"question", "chunk", "results"}
        if not known or (content["question"], content["chunk"]) != (self.key, number):
            raise StorageError(f"{str(path)!r} holds no tasks of this study")
        results = list(content["results"])
        return results if self._from_file is None else [self._from_file(result) for result in results]


def _read_question(place: Path) -> dict[str, str]:
    try:
        content = json.loads(place.read_text())
        if content["layout"] != LAYOUT:
            raise ValueError(f"its layout is {content['layout']!r}, and this version reads {LAYOUT}")
        question = content["question"]
        if not all(isinstance(part, str) for pair in question.items() for part in pair):
            raise ValueError("its question is no table of words")
    except OSError as error:
        raise StorageError(f"{str(place)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{str(place)!r} is damaged: {error}; give another folder") from None
    return dict(question)
