"""Keeps what MLflow is to hear, a folder a record in `.mlflow/spool/`, and tells it from there.

The run that made a record tells it, or the next run to which MLflow answers. MLflow never ends a
run: a process that meets a fault of it keeps the rest, and says so once. A folder gets its name
when it is whole, and goes when MLflow has the record. A kill in between leaves a record that is
told again, which adds nothing twice (client.py).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import filelock

from tasks.core.foundations.durable import write_text
from tasks.store.artifacts import canonical_digest
from tasks.tracking import client, database, records
from tasks.tracking.records import Record

LOGGER = logging.getLogger("vl_distillery")
RECORD = "record.json"
NAME = re.compile(r"\d{13}-[0-9a-f]{32}")  # of a folder that waits: when, and what
LOCK_SECONDS = 10.0  # of a lock that is held for moments
Files = dict[str, Path]  # by their paths in the folder of the record
Build = Callable[[], tuple[Record, Files]]


def log(dataset: str, tag: str, digest: str, build: Build) -> str:
    """Tell MLflow a record once, and all others that wait.

    Args:
        tag, digest: those of the record's last part.
        build: returns the record, and the files that its parts name. It is not called where MLflow
            is known to have the record: then nothing is imported.

    Returns:
        The run of the record as `Tracker.tell` gives it; "" while MLflow does not have it.
    """
    spool = _spool(client.STORE.resolve(), client.server())
    key = key_of(dataset, tag, digest)
    if not spool.has(key):
        spool.keep(key, *build())
    spool.tell()
    return spool.run_of(key)


def key_of(dataset: str, tag: str, digest: str) -> str:
    """Return the name of a record: of its folder while it waits, then of the note that MLflow has
    it.
    """
    return canonical_digest([dataset, tag, digest])[:32]


@functools.cache
def _spool(store: Path, server: str) -> Spool:
    return Spool(store, server)


class Spool:
    """What one server has still to hear from this folder."""

    def __init__(self, store: Path, server: str) -> None:
        self.folder, self.notes = store / "spool" / server, store / database.LOGGED / server
        self.lock = str(store / "spool.lock")
        self.began_ms, self.num_late = int(time.time() * 1000), 0
        self.fault: str | None = None

    def has(self, key: str) -> bool:
        """Whether a record waits, or MLflow is known to have it.

        A sqlite file that was removed has no record, whatever the notes say.
        """
        file = database.file_of(client.tracking_uri())
        is_told = (self.notes / key).is_file() and (file is None or file.is_file())
        return is_told or any(place.name.endswith(key) for place in self.waiting())

    def run_of(self, key: str) -> str:
        """Return the run that a record became, as `Tracker.tell` does; "" where it is not known."""
        with contextlib.suppress(FileNotFoundError):
            return (self.notes / key).read_text()
        return ""

    def keep(self, key: str, record: Record, files: Files) -> None:
        """Write a record with copies of its files, unless another process did."""
        new = self.folder / f"{key}.new"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{self.folder}.lock", timeout=LOCK_SECONDS):
                # Under the lock: two processes may find one artifact and ask for the same record
                if self.has(key):
                    return
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir()
                # Copies: a gallery may be made again before MLflow answers
                for name, file in files.items():
                    (new / name).parent.mkdir(exist_ok=True)
                    shutil.copyfile(file, new / name)
                write_text(new / RECORD, record.to_json())
                new.rename(self.folder / f"{record.time:013}-{key}")
        except OSError as error:
            shutil.rmtree(new, ignore_errors=True)
            LOGGER.warning(
                "MLflow is not told of this run, which %s could not keep: %s; a run that finds the "
                "same artifacts tells it",
                self.folder,
                error,
            )

    def waiting(self) -> list[Path]:
        """Return the folders of records that MLflow does not have yet, the oldest first."""
        return sorted(place for place in self.folder.glob("*") if NAME.fullmatch(place.name))

    def tell(self) -> None:
        """Tell what waits, as long as MLflow takes a record every few seconds."""
        if self.fault or not self.waiting():
            return
        try:
            seconds = client.prepare()
        except Exception as error:  # whatever is wrong with MLflow, a run does not end by it
            self._go_on_without(error)
            return
        # A thread, since nothing else bounds how long MLflow and what is below it may take
        teller = threading.Thread(target=self._tell, daemon=True)
        teller.start()
        seen = None
        # Every record that goes earns the thread another wait
        while teller.is_alive() and seen != (left := self.waiting()):
            seen = left
            teller.join(seconds)
        if teller.is_alive():
            self._go_on_without(TimeoutError(f"no answer in {seconds:g} s"))
        if self.num_late:
            LOGGER.info("told MLflow of %d logged units that had waited", self.num_late)
            self.num_late = 0

    def _tell(self) -> None:
        try:
            # Two at once would create each run twice
            with filelock.FileLock(self.lock):
                client.connect()  # fails here where the address is at fault, and no record
                while not self.fault and (places := self.waiting()):
                    self._tell_one(places[0])
        except Exception as error:
            self._go_on_without(error)

    def _tell_one(self, place: Path) -> None:
        if not (place / RECORD).exists():
            shutil.rmtree(place)  # told, and killed while it was removed
            return
        try:
            record = records.read(place / RECORD)
        except (ValueError, KeyError, TypeError) as error:
            self._set_aside(place, "damaged", error)
            return
        try:
            run = client.Tracker(record.dataset).tell(record, place)
        except Exception as error:
            if not client.is_refusal(error):
                raise
            self._set_aside(place, "refused", error)
            return
        self.num_late += record.time < self.began_ms
        self.notes.mkdir(parents=True, exist_ok=True)
        # The note first: without it a kill here would let the next run build and tell it anew
        write_text(self.notes / place.name.partition("-")[2], run)
        (place / RECORD).unlink()
        shutil.rmtree(place)

    def _set_aside(self, place: Path, kind: str, error: Exception) -> None:
        aside = place.with_suffix(f".{kind}")
        shutil.rmtree(aside, ignore_errors=True)
        place.rename(aside)
        LOGGER.warning("MLflow cannot take %s: %s", aside, client.reason(error))

    def _go_on_without(self, error: Exception) -> None:
        if self.fault:
            return
        self.fault = client.reason(error)
        LOGGER.warning(
            "going on without MLflow at %s: %s; what it should have heard waits in %s (%d so far), "
            "and the next run tells it",
            client.address(),
            self.fault,
            self.folder,
            len(self.waiting()),
        )
