"""Postgres of Debian as a process of this machine, which can be ended and started again."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.workspace import ROOT

WAIT_SECONDS = 120


def programs() -> Path:
    """Return the folder of Postgres' programs; skip the test where there is none."""
    found = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if not found:
        pytest.skip("Postgres of Debian is not installed")
    return found[-1]


@dataclass
class Postgres:
    """A server of Postgres. It does not run as root.

    Attributes:
        place: its folder, which nobody else may enter.
    """

    place: Path
    port: int
    log: Path
    password: str
    user: str | None
    process: subprocess.Popen[bytes] | None = None

    @property
    def _where(self) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self.port)]

    def make(self) -> None:
        """Make an empty database folder."""
        secret = self.place / "password"
        secret.write_text(self.password)
        if self.user:
            shutil.chown(self.place, self.user)
            shutil.chown(secret, self.user)
        words = ["-A", "scram-sha-256", "-U", "postgres", "--pwfile", str(secret), "--no-sync"]
        command = [programs() / "initdb", "-D", self.place / "data", *words]
        subprocess.run(command, check=True, capture_output=True, user=self.user, cwd=self.place)

    def start(self) -> None:
        """Start it, and return when it answers."""
        words = ["-D", self.place / "data", *self._where, "-k", self.place]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [programs() / "postgres", *words],
                cwd=self.place,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=self.user,
            )
        ready = [programs() / "pg_isready", "-q", *self._where]
        limit = time.monotonic() + WAIT_SECONDS
        while subprocess.run(ready, check=False).returncode != 0:
            assert time.monotonic() < limit, self.log.read_text(errors="replace")[-3000:]
            time.sleep(0.2)

    def run(self, script: Path) -> None:
        """Run a file of SQL."""
        tell = [programs() / "psql", "-q", *self._where, "-U", "postgres", "-f", script]
        subprocess.run(tell, check=True, env={**os.environ, "PGPASSWORD": self.password})

    def end(self) -> None:
        """End it at once in good order, as `restart` of its service does."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process = None


@contextmanager
def postgres(port: int, log: Path, password: str) -> Iterator[Postgres]:
    """Give a server with the databases that infra/compose makes."""
    user = "postgres" if getpass.getuser() == "root" else None
    with tempfile.TemporaryDirectory(prefix="vl-distillery-postgres-") as place:
        found = Postgres(Path(place), port, log, password, user)
        found.make()
        try:
            found.start()
            found.run(ROOT / "infra/compose/databases.sql")
            yield found
        finally:
            found.end()
