"""Every reply that was paid for, in one sqlite file."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

_TABLES = """
CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, model TEXT, reply TEXT NOT NULL, created TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS found_out
  (server TEXT, model TEXT, name TEXT, value TEXT, created TEXT, PRIMARY KEY (server, model, name));
CREATE TABLE IF NOT EXISTS under_way (key TEXT PRIMARY KEY, created TEXT NOT NULL);
"""
EXPIRY = timedelta(days=1)  # of what was found out about a server: it may be put right, or have another model


def request_key(request: dict[str, Any]) -> str:
    """SHA-256 of a whole request (server, model, messages with their images, schema, attempt), however it is ordered.

    >>> request_key({"a": 1, "b": 2}) == request_key({"b": 2, "a": 1})
    True
    """
    text = json.dumps(request, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Cache:
    """Replies by request key, and what was found out about servers. One thread at a time.

    Args:
        path: the file; None keeps everything in memory.
        reading: only look at what is there; nothing is made or changed.

    A reply is on disk as soon as `put` returns, so that a killed process loses at most the requests under way; which
    ones these were is on disk too.

    Raises:
        ValueError: the file cannot be used: it is no cache, or cannot be written.
    """

    def __init__(self, path: str | Path | None, reading: bool = False) -> None:
        try:
            if path is None or (reading and not _holds_a_cache(Path(path))):
                self._db = _writable(":memory:")
            elif reading:
                self._db = sqlite3.connect(_address(Path(path)), uri=True, timeout=30)
            else:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self._db = _writable(str(path))
        except (sqlite3.Error, OSError) as error:
            raise ValueError(f"cache {path}: {error}; move the file away, or choose another with cache=") from error

    def get(self, key: str) -> dict[str, Any] | None:
        """The reply to a request, or None."""
        row = self._db.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, reply: dict[str, Any], again: bool = False) -> None:
        """Keep a reply; the first one stays, unless the question was put again on order."""
        values = (key, json.dumps(reply.get("model", "")).strip('"'), json.dumps(reply), _now())  # ASCII holds anything
        with self._db:
            self._db.execute(f"INSERT OR {'REPLACE' if again else 'IGNORE'} INTO replies VALUES (?, ?, ?, ?)", values)
            self._db.execute("DELETE FROM under_way WHERE key = ?", (key,))

    def begin(self, key: str) -> bool:
        """Note that a request is about to be sent. Whether a run that ended without its reply had sent it already."""
        with self._db:
            return self._db.execute("INSERT OR IGNORE INTO under_way VALUES (?, ?)", (key, _now())).rowcount == 0

    def give_up(self, key: str) -> None:
        """Note that a request ended without a reply that could be kept."""
        with self._db:
            self._db.execute("DELETE FROM under_way WHERE key = ?", (key,))

    def left_under_way(self, key: str) -> bool:
        """Whether a request was sent by a run that ended without its reply."""
        return self._db.execute("SELECT 1 FROM under_way WHERE key = ?", (key,)).fetchone() is not None

    def capabilities(self, server: str, model: str, ever: bool = False) -> dict[str, bool]:
        """What was found out about a model on a server, not long ago; with `ever`, whenever it was."""
        since = "" if ever else (datetime.now(UTC) - EXPIRY).isoformat(timespec="seconds")
        rows = self._db.execute(
            "SELECT name, value FROM found_out WHERE server = ? AND model = ? AND created > ?",
            (address_of(server), model, since),
        )
        return {name: value == "yes" for name, value in rows}

    def put_capability(self, server: str, model: str, name: str, value: bool) -> None:
        """Remember what was found out."""
        with self._db:
            values = (address_of(server), model, name, "yes" if value else "no", _now())
            self._db.execute("INSERT OR REPLACE INTO found_out VALUES (?, ?, ?, ?, ?)", values)

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM replies").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def address_of(server: str) -> str:
    """A server's address without what may be secret: user, password, query.

    >>> address_of("http://me:secret@host:8000/v1?key=secret")
    'http://host:8000/v1'
    """
    parts = urlsplit(server)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _writable(name: str) -> sqlite3.Connection:
    """A connection with all tables, after making sure that it can be written: before a reply is paid, not after."""
    db = sqlite3.connect(name, timeout=30)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.executescript(_TABLES)
    db.execute("BEGIN IMMEDIATE")
    db.rollback()
    return db


def _holds_a_cache(path: Path) -> bool:
    """Whether there is a file with all tables."""
    if not path.is_file():
        return False
    with closing(sqlite3.connect(_address(path), uri=True, timeout=30)) as db:
        names = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return names >= {"replies", "found_out", "under_way"}


def _address(path: Path) -> str:
    """Opens a file without writing; beside one that a folder forbids to lock, nobody else writes either."""
    folder = path.resolve()
    return f"{folder.as_uri()}?" + ("mode=ro" if os.access(folder.parent, os.W_OK) else "immutable=1")
