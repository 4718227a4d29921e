"""Artifacts that travel: pulled when a key asks for them and the folder has none, pushed when they
are complete.

`through` names the store to the lookups in its block (`caching.obtain`). A store that fails stops
nothing: the run goes on with its folder, and what the store lacks is pushed by the next lookup.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tasks.store import artifacts, disk, urls
from tasks.store.artifacts import Key
from tasks.store.manifests import DamagedArtifact, Manifest
from tasks.store.patience import Report, T, Unreachable
from tasks.store.remote import Address, Remote

LOGGER = logging.getLogger("vl_distillery")
REST_SECONDS = 60.0  # before a store that failed is asked again
_ARRIVED = ".arrived"
Reporter = Callable[[str], Report]


class _Store:
    """A store during one run, with what has failed."""

    def __init__(self, remote: Remote, reporter: Reporter) -> None:
        self.remote, self.reporter = remote, reporter
        self.known: set[Address] = set()
        self.damaged: set[Address] = set()
        self.failed: Counter[str] = Counter()
        self.rests_until = 0.0

    def ask(self, what: str, ask: Callable[[], T]) -> T | None:
        """Return what the store answers, or None when it fails; `failed` counts that by `what`."""
        # A run looks up hundreds of artifacts, and each of them would wait for a dead store
        if time.monotonic() < self.rests_until:
            self.failed[what] += 1
            return None
        try:
            return ask()
        except Unreachable as failure:
            # Told once, when it happens; `say_failures` counts the rest
            if not self.failed:
                LOGGER.warning(
                    "going on without the store %s: %s; artifacts stay in this folder, and a later "
                    "lookup pushes what the store lacks",
                    self.remote.shown,
                    urls.reason(failure, self.remote.url),
                )
            self.failed[what] += 1
            self.rests_until = time.monotonic() + REST_SECONDS
            return None

    def report(self, name: str) -> Report:
        """Return what shows a transfer; its bar is made at the first call, if there is one."""
        made: list[Report] = []

        def tell(done: int, total: int) -> None:
            if not made:
                made.append(self.reporter(name))
            made[0](done, total)

        return tell

    def say_failures(self) -> None:
        """Repeat at the end of a run what the store did not do."""
        if self.failed:
            LOGGER.warning(
                "the store %s failed; artifacts not pushed: %d, not looked up there: %d; the same "
                "command pushes what the store lacks",
                self.remote.shown,
                self.failed["push"],
                self.failed["pull"],
            )


_STORE: contextvars.ContextVar[_Store | None] = contextvars.ContextVar("store", default=None)


@contextlib.contextmanager
def through(remote: Remote | None, reporter: Reporter) -> Iterator[None]:
    """Let artifacts travel through a store in this block; None leaves everything as it is.

    Args:
        reporter: gives `progress(done, total)` for a transfer of that name.
    """
    if remote is None:
        yield
        return
    store = _Store(remote, reporter)
    token = _STORE.set(store)
    try:
        yield
    finally:
        _STORE.reset(token)
        store.say_failures()


def pull(folder: Path, key: Key) -> Manifest | None:
    """Put the artifact of a key into `folder` and return its manifest; None when there is no store,
    or it has none that is whole.

    Raises:
        Refused: the disk; what had come is removed.
    """
    store = _STORE.get()
    if store is None:
        return None
    address = Address.of(key)
    work = artifacts.work_folder(key, folder)
    arrived = work / _ARRIVED
    report = store.report(f"pulling {folder}, bytes")
    try:
        manifest = store.ask("pull", lambda: store.remote.fetch(address, arrived, report))
    except DamagedArtifact as damage:
        LOGGER.warning("the store has a damaged artifact, which is made again: %s", damage)
        store.damaged.add(address)
        _remove(arrived)
        return None
    except disk.Refused:
        _remove(arrived)
        raise
    if manifest is None:
        return None
    artifacts.adopt(arrived, folder, key)
    store.known.add(address)
    LOGGER.info("pulled %s from %s", folder, store.remote.shown)
    return manifest


def push(folder: Path, manifest: Manifest, key: Key, *, is_forced: bool = False) -> None:
    """Send a verified artifact to the store, unless that has one of this key.

    Args:
        is_forced: it was made again on purpose, and replaces what is there.
    """
    store = _STORE.get()
    # The manifest's key: a stand-in's own key lacks inputs
    address = Address.of(key, manifest.key)
    # What other code made is accepted by those who said so, on this machine alone
    if store is None or manifest.accepted_code:
        return
    is_replaced = is_forced or address in store.damaged
    if address in store.known and not is_replaced:
        return
    report = store.report(f"pushing {folder}, bytes")

    def send() -> bool:
        return store.remote.send(address, folder, manifest, is_replaced=is_replaced, report=report)

    try:
        is_sent = store.ask("push", send)
    except DamagedArtifact as damage:
        LOGGER.warning("not pushed: %s", damage)
        return
    if is_sent is None:
        return
    store.known.add(address)
    store.damaged.discard(address)
    if is_sent:
        LOGGER.info("pushed %s to %s", folder, store.remote.shown)


def offered(key: Key) -> list[Manifest]:
    """Return the manifests in the store that have the parameters and the code of `key`, whatever
    their inputs; none without a store.
    """
    store = _STORE.get()
    if store is None:
        return []
    try:
        return store.ask("pull", lambda: store.remote.offered(Address.of(key))) or []
    except DamagedArtifact as damage:
        LOGGER.warning("the store is not looked at: %s", damage)
        return []


def _remove(arrived: Path) -> None:
    shutil.rmtree(arrived, ignore_errors=True)
    with contextlib.suppress(OSError):  # a checkpoint is beside it
        arrived.parent.rmdir()
