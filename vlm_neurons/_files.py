"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

_PIECE = 2**24  # bytes of a long file that are looked through at once


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file in the same folder, put it on disk, then give it its name.

    Raises:
        OSError: the disk is full or cannot be written to; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        created = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)  # with the user's umask
    except OSError as error:
        raise unwritten(path, error) from error
    mode = os.fstat(created).st_mode & 0o777
    os.close(created)
    try:
        write(temporary)
        temporary.chmod(mode)  # safetensors puts a file of its own there, for the user alone
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise unwritten(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def put_on_disk(folder: Path) -> None:
    """What was given a name in a folder has it after a power cut too."""
    with suppress(OSError):  # not on this system
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def append_lines(file: Path, text: str, sync: bool = False) -> None:
    """Add lines to a file, by one process at a time; a last line that a kill cut off goes before. One that is whole but
    for its end, as editors leave it, gets that.

    Args:
        file: the file.
        text: whole lines.
        sync: return when they are on disk, not only in the file.

    Raises:
        OSError: the disk is full or cannot be written to; then nothing is added.
    """
    with told_where(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab+", buffering=0) as lines, _alone(lines):
            end, ended = _whole(lines)
            lines.truncate(end)
            left = memoryview(("" if ended else "\n").encode() + text.encode())
            try:
                while left:
                    left = left[lines.write(left) :]
                if sync:
                    os.fsync(lines.fileno())
            except OSError:
                lines.truncate(end)
                raise


def _whole(lines: FileIO) -> tuple[int, bool]:
    """Where the last whole line of JSON ends, and whether with its end. Of a file without a torn one a byte is read,
    however long it is."""
    end = lines.seek(0, os.SEEK_END)
    lines.seek(max(0, end - 1))
    if end == 0 or lines.read(1) == b"\n":
        return end, True
    lines.seek(0)
    text = lines.read()
    begin = text.rfind(b"\n") + 1
    try:
        json.loads(text[begin:])
    except ValueError:
        return begin, True
    return end, False


@contextmanager
def told_where(path: Path) -> Iterator[None]:
    """What cannot be written is told with the remedy."""
    try:
        yield
    except OSError as error:
        raise unwritten(path, error) from error


def unwritten(path: Path, error: Exception) -> OSError:
    """What to say where a file cannot be written."""
    may_not = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    remedy = (
        "you may read there, but not write: name another place with out=, or copy the directory to where you may"
        if may_not
        else "make room, and the same call goes on from there"
    )
    return OSError(f"{path} could not be written ({error}). What was finished before is untouched: {remedy}")


def lines_with(file: Path, word: bytes) -> Iterator[tuple[int, bytes]]:
    """Lines of a file that hold a word, with their ends, and where each begins; the others are looked through as they
    are on disk.

    >>> file = Path("words.txt")
    >>> file.write_bytes(b"a red one\\nblue\\nred, red") and list(lines_with(file, b"red"))
    [(0, b'a red one\\n'), (15, b'red, red')]
    """
    begin, left, last = 0, b"", False  # read, not mapped: another process may cut a torn line off meanwhile
    with file.open("rb") as opened:
        while not last:
            more = opened.read(_PIECE)
            text, last = left + more, not more
            end = len(text) if last else text.rfind(b"\n") + 1
            at = text.find(word, 0, end)
            while at >= 0:
                first, after = text.rfind(b"\n", 0, at) + 1, text.find(b"\n", at, end)
                after = end if after < 0 else after + 1
                yield begin + first, text[first:after]
                at = text.find(word, after, end)
            begin, left = begin + end, text[end:]


class Unreadable(ValueError):
    """A file is damaged, or of another format; it says which, and what writes it again."""


@contextmanager
def readable(file: Path, writer: str) -> Iterator[None]:
    """What goes wrong inside is told with the file and what writes it again; what tells them itself goes through."""
    try:
        yield
    except Unreadable:  # of a file that this one needs
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
        if str(error).startswith(str(file)) or full:  # too many open files: this one is whole
            raise
        raise Unreadable(f"{file} cannot be read: {error}. Move it away; {writer} writes it again") from error


@contextmanager
def changing(file: Path) -> Iterator[None]:
    """What is read of a file inside, and written again with more, no other process changes meanwhile."""
    with locked(file.with_name(f".{file.name}.lock"), file):
        yield


@contextmanager
def locked(path: Path, of: Path | None = None) -> Iterator[None]:
    """Hold a lock file, after whoever holds it now. A killed process lets go. The file stays: others may wait for
    it. What cannot be written is `of`, if that is given."""
    with told_where(of or path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file, _alone(file):
        yield


@contextmanager
def _alone(file: IO[Any]) -> Iterator[None]:
    """Hold an open file, after whoever holds it now."""
    taken(file, wait=True)
    try:
        yield
    finally:
        with suppress(ImportError, OSError):  # where there are no locks
            import fcntl

            fcntl.flock(file, fcntl.LOCK_UN)


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Hold a lock file unless another process does: whether this one does now. Raises FileNotFoundError where its
    folder has gone."""
    with path.open("a") as file:
        yield taken(file, wait=False)


def taken(file: IO[Any], wait: bool) -> bool:
    """Lock an open file: False where another process has it, and it is not waited for. Where a system, or a file
    system, has no locks nobody is kept out: all do it, and what they write is whole."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True
