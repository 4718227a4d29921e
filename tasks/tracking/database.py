"""Keeps the sqlite database of MLflow whole: it is made under a temporary name, mended on a copy,
and set aside where it is broken.

MLflow makes its tables in some fifty steps that are no transaction. A kill or a full disk among
them leaves a file on which each later start fails.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

LOGGER = logging.getLogger("vl_distillery")
LOGGED = "logged"  # folder of notes on what MLflow has, see spool.py
# Waits: for sqlite's own lock, since the last write of a file that nobody changes, for our lock
BUSY_SECONDS, QUIET_SECONDS, LOCK_SECONDS = 3.0, 5.0, 60.0
SETTLING_SECONDS = 4 * QUIET_SECONDS
COMPANIONS = ("", "-journal", "-wal", "-shm")  # endings of a database and of its journals


def file_of(uri: str) -> Path | None:
    """Return the file of the database at an address; None where it is no file of sqlite."""
    name = uri.removeprefix("sqlite:///")
    return None if name in (uri, "", ":memory:") or "?" in name else Path(name)


def ensure(path: Path, store: Path) -> None:
    """Make the database at `path` where there is none, and mend or replace one that MLflow cannot
    use. The old file stays beside it, and a warning names it.

    Args:
        store: the folder with MLflow's files and the notes on what MLflow has. A new database has
            nothing, so that the notes are removed.

    Raises:
        sqlite3.OperationalError: it is locked or read-only.
        alembic.util.CommandError: it was made by a later version of MLflow.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with filelock.FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
        _remove(new)
        try:
            _replace(path, new, store)
        finally:
            _remove(new)  # it may be what fills the disk


def _replace(path: Path, new: Path, store: Path) -> None:
    """Put a new or mended database in place of one that MLflow cannot use."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    head, broken = _get_latest_schema_revision(), ""
    try:
        found = _settled(path, head)
        if found == head:
            return
        if found is not None:
            broken = _mend(path, new)
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise
        found, broken = "", str(error)
    # There is nothing to mend, or it cannot be mended
    if found is None or broken:
        _remove(new)
        _make(new, store)
    # A file is there: it is kept beside the new one, whatever is wrong with it
    if found is not None:
        _set_aside(path, broken)
    # sqlite would apply the journals of the old database to the new one
    for end in COMPANIONS[1:]:
        Path(f"{path}{end}").unlink(missing_ok=True)
    new.replace(path)


def _settled(path: Path, head: str) -> str | None:
    """Return `_revision` once no other program, such as a server, is changing the tables.

    Raises:
        TimeoutError: one changes it all the time, as a server of another version does.
    """
    limit = time.monotonic() + SETTLING_SECONDS
    while time.monotonic() < limit:
        found = _revision(path)
        if found in (None, head) or not 0 <= time.time() - path.stat().st_mtime < QUIET_SECONDS:
            return found
        time.sleep(0.2)
    raise TimeoutError(f"{path} is of another version of MLflow, and another program writes to it")


def _revision(path: Path) -> str | None:
    """Return the revision of the tables, "" for tables without one, None where there is no table.

    Raises:
        sqlite3.DatabaseError: the file is damaged, locked or read-only.
    """
    if not path.exists():
        return None
    with _connected(path) as connection:
        connection.execute("BEGIN IMMEDIATE")
        # A write that is never committed: a lock, a read-only file or a full disk shows here
        connection.execute("PRAGMA user_version = 1")
        (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if answer != "ok":
            raise sqlite3.DatabaseError(answer)
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if "alembic_version" not in tables:
            return "" if tables else None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else ""


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether the content of a database is at fault, and not who else uses it or the disk."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _mend(path: Path, new: Path) -> str:
    """Bring a copy of an older or half-made database up to date as `new`, and return "", or why it
    cannot be done.
    """
    from alembic.util import CommandError
    from mlflow.store.db import utils

    with _connected(path) as old, _connected(new) as copy:
        old.backup(copy)
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{new}")
    try:
        make = utils._upgrade_db if _revision(new) else utils._initialize_tables
        make(engine)
        utils._verify_schema(engine)
    except (CommandError, OSError):
        raise
    except Exception as error:  # a migration that meets half of itself ends with any kind
        cause = error.__cause__ or error
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF in (
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_IOERR,
        ):
            raise
        return f"half-made: {str(cause).splitlines()[0]}"
    finally:
        engine.dispose()
    return ""


def _make(new: Path, store: Path) -> None:
    """Make an empty database, with MLflow's default experiment."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    place = (store / "artifacts").resolve().as_uri()
    SqlAlchemyStore(f"sqlite:///{new}", place)._dispose_engine()
    shutil.rmtree(store / LOGGED, ignore_errors=True)


def _set_aside(path: Path, broken: str) -> None:
    """Copy a database with its companions to a name of its own, and say so."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    for end in COMPANIONS:
        if (part := Path(f"{path}{end}")).exists():
            shutil.copyfile(part, f"{aside}{end}")
    if not broken:
        text = "%s was half-made or of another version; it is mended, and lies in %s as it was"
        LOGGER.warning(text, path, aside)
        return
    LOGGER.warning(
        "%s is no database that MLflow can use (%s); it lies in %s now, with %s; a new one is made",
        path,
        broken,
        aside,
        _num_runs(aside),
    )


def _num_runs(path: Path) -> str:
    try:
        with _connected(path) as connection:
            (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    except sqlite3.DatabaseError:
        return "runs that cannot be counted"
    return f"{count} runs"


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, BUSY_SECONDS, isolation_level=None)) as found:
        yield found


def _remove(path: Path) -> None:
    for end in COMPANIONS:
        Path(f"{path}{end}").unlink(missing_ok=True)
