"""A store: one address, asked with patience. What lies there is in remote_files.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tasks.store import disk, urls
from tasks.store.manifests import DamagedArtifact, Manifest
from tasks.store.patience import SECONDS, Pulse, Report, T, patiently
from tasks.store.remote_files import Address, Files


class Unusable(ValueError):
    """The library of a store's protocol is not installed."""


class Remote:
    """One store. Every request ends, see `patience`: with an answer, or with `Unreachable`.

    Args:
        seconds: for how long nothing may come or go.
    """

    def __init__(self, url: str, seconds: float = SECONDS) -> None:
        self.url, self.seconds = url, seconds
        self._opened: Files | None = None

    @property
    def shown(self) -> str:
        """The address, without what is secret."""
        return urls.shown(self.url)

    def offered(self, address: Address) -> list[Manifest]:
        """Return the manifests of all artifacts of a recipe; damaged ones are left out."""
        return self._asked(lambda files, pulse: files.offered(address, pulse))

    def fetch(self, address: Address, place: Path, report: Report | None) -> Manifest | None:
        """Copy an artifact into `place`, its manifest last, or return None when there is none.

        Files that an earlier try brought are not copied again. Nothing is synced to the disk here;
        the caller does that.

        Raises:
            DamagedArtifact: what lies there is not an artifact of this key, or not whole.
            Refused: the disk of `place`.
        """
        return self._asked(lambda files, pulse: files.fetch(address, place, pulse), report)

    def send(
        self,
        address: Address,
        folder: Path,
        manifest: Manifest,
        *,
        is_replaced: bool,
        report: Report | None,
    ) -> bool:
        """Copy an artifact to the store, and return whether the store lacked it.

        Files that lie there already are not sent again.

        Args:
            is_replaced: send all files, whatever lies there.

        Raises:
            DamagedArtifact: `folder` is not what its manifest says.
        """
        return self._asked(
            lambda files, pulse: files.send(address, folder, manifest, is_replaced, pulse), report
        )

    def _asked(self, ask: Callable[[Files, Pulse], T], report: Report | None = None) -> T:
        return patiently(
            # The store is opened inside the work: that may hang or fail like any other request
            lambda pulse: ask(self._open(), pulse),
            answers=(DamagedArtifact, disk.Refused, Unusable),
            report=report,
            seconds=self.seconds,
        )

    def _open(self) -> Files:
        """Open the store when it is first asked.

        Raises:
            Unusable: the library of its protocol is not installed.
        """
        # Imported here: a run without a store does not wait for fsspec
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        if self._opened is None:
            try:
                system, root = url_to_fs(self.url)
            except ImportError as error:
                raise Unusable(
                    f"store: {self.shown} needs a library that is not installed "
                    f"({urls.reason(error, self.url)}); install it (the extra 's3' for s3://), or "
                    "change `store`"
                    # The cause may hold the address with its password
                ) from None
            is_local = isinstance(system, LocalFileSystem)
            self._opened = Files(system, root, is_local, self.shown)
        return self._opened
