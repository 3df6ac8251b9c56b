"""The one way in which the library writes a file, and the one kind of error that files end in."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Any

__all__ = [
    "MissingFile",
    "StorageError",
    "TakenPath",
    "as_folder",
    "is_there",
    "make_folder",
    "read_file",
    "read_words",
    "remove_unfinished",
    "write_atomically",
    "write_picture",
]

UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.tmp")  # names of files that are not yet in their places


class StorageError(ValueError, OSError):
    """A file cannot be read or written, or an object not stored; says which file, and which field of it."""


class MissingFile(StorageError, FileNotFoundError):
    """A file or a folder is not there."""


class TakenPath(StorageError, FileExistsError):
    """A path belongs to something that must not be replaced."""


def as_folder(given: str | Path) -> Path:
    """The path of a folder.

    Raises:
        ValueError: if it is the empty word, by which `Path` means the working directory.
    """
    if given == "":
        raise ValueError("folder is '', which stands for no folder; give its path, or '.' for the working directory")
    return Path(given)


def make_folder(path: str | Path, what: str = "it") -> Path:
    """Makes a folder, and those above it, unless it is there.

    Args:
        path: of the folder.
        what: needs it, for the message.

    Raises:
        TakenPath: if a part of the path is a file or anything else that holds no files.
        StorageError: if it cannot be made.
    """
    folder = Path(path)
    try:
        folder.absolute().mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        taken = next((part for part in (folder, *folder.parents) if _is_no_folder(part)), None)
        if taken is not None:
            kind = "a file" if taken.is_file() else "no folder"
            raise TakenPath(f"{str(taken)!r} is {kind}; {what} needs a folder") from error
        raise StorageError(f"the folder {str(folder)!r} cannot be made: {_reason(error)}") from error
    return folder


def _is_no_folder(path: Path) -> bool:
    try:
        return os.path.lexists(path) and not path.is_dir()
    except (OSError, ValueError):  # names that no file can have
        return False


def _reason(error: Exception) -> str:
    """Why something cannot be read or written, without the path."""
    return str(getattr(error, "strerror", None) or error)


def is_there(path: str | Path) -> bool:
    """Whether there is something at a path; not, where no file can have that name."""
    try:
        return os.path.exists(path)
    except ValueError:
        return False


def write_atomically(path: str | Path, content: bytes) -> Path:
    """Puts a file in its place once all of it is on disk, with the permissions that the umask leaves to new files.

    The content is written to a new file beside it, which then takes its name: whoever reads finds the old file or the
    new one, never a part. Nothing but a file is replaced, and nothing is written through a link.

    Args:
        path: of the file; its folder is made if need be.
        content: all of it.

    Returns:
        The path.

    Raises:
        TakenPath: if the path is a symbolic link, a device, a folder, or anything else that is no plain file.
        StorageError: if the disk is full, or the folder closed to this user.
    """
    path = Path(path)
    if not path.name or "\0" in str(path):
        raise TakenPath(f"{str(path)!r} is no path of a file; give a name")
    make_folder(path.parent, f"{str(path)!r}")
    beside = path.with_name(f".{secrets.token_hex(8)}.tmp")  # whose name is short enough wherever the file's own is
    try:
        _check_replaceable(path)
        try:
            with open(beside, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{str(path)!r} cannot be written: {_reason(error)}") from error
    with contextlib.suppress(OSError):  # where folders cannot be opened, the rename may come late, never half
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return path


def remove_unfinished(folder: Path) -> None:
    """Removes what `write_atomically` had begun to write in a folder when its process was killed.

    Args:
        folder: that nobody else writes to now.
    """
    for path in folder.glob(".*.tmp"):
        if UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


def read_file(path: str | Path) -> bytes:
    """All bytes of a file.

    Raises:
        MissingFile: if there is none.
        StorageError: if it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise MissingFile(f"there is no file {str(path)!r}") from error
    except (OSError, ValueError) as error:
        raise StorageError(f"{str(path)!r} cannot be read: {_reason(error)}") from error


def read_words(path: Path) -> str:
    """The text of a file that people wrote: UTF-8 or UTF-16, or Latin-1, as older ones have in names and comments.

    Raises:
        MissingFile: if there is none.
        StorageError: if it cannot be read.
    """
    content = read_file(path)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def write_picture(path: str | Path, figure: Any, *, dpi: int = 150) -> Path:
    """Writes a figure of matplotlib, in the format that the path's suffix names.

    Args:
        path: of the picture, e.g. "values.png" or "values.pdf".
        figure: what to write.
        dpi: dots per inch.

    Raises:
        ValueError: if no such format is known.
        StorageError: as `write_atomically`.
    """
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format=Path(path).suffix.removeprefix(".") or "png", dpi=dpi)
    except ValueError as error:
        raise ValueError(f"the picture cannot be saved as {str(path)!r}: {error}") from None
    return write_atomically(path, buffer.getvalue())


def _check_replaceable(path: Path) -> None:
    """Refuses to replace what is no plain file."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISLNK(mode):
        raise TakenPath(
            f"{str(path)!r} is a symbolic link to {os.readlink(path)!r}, through which nothing is written; give the "
            "path of the file itself, or remove the link"
        )
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "device, a pipe or a socket"
        raise TakenPath(f"{str(path)!r} is a {kind} and cannot be replaced by a file; give another path")
