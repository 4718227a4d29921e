"""Artifacts that are used although this machine lacks raw data or weights that they were made from.

`dvc pull` brought such an artifact, or another machine put it into the store. All that can be
compared has to agree; a warning names what cannot.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tasks.store import artifacts, reasons, travel
from tasks.store.artifacts import Key, Ref
from tasks.store.code_digests import modules_of
from tasks.store.manifests import Manifest

LOGGER = logging.getLogger("vl_distillery")


@dataclass(frozen=True)
class StandIn:
    """An artifact to be found by a key that lacks inputs.

    Attributes:
        key: names the inputs that can be looked at.
        missing: why the others cannot; `missing.names` are the files that were asked for.
        accept_code: whether code may differ.
    """

    folder: Path
    key: Key
    missing: FileNotFoundError
    accept_code: bool

    def find(self, *, is_looking: bool, is_refused: bool) -> Ref:
        """Return what stands in: the artifact in the folder, or one that the store has.

        Args:
            is_looking: nothing may be brought or changed.
            is_refused: an artifact was to be built by all means.

        Raises:
            FileNotFoundError: nothing can stand in, or several can.
        """
        try:
            manifest = self._here(is_refused)
        except FileNotFoundError:
            if is_looking or is_refused or not self._pull():
                raise
            manifest = self._here(is_refused)
        ref = Ref(str(self.folder), manifest.digest, is_cached=True)
        if is_looking:
            return ref
        LOGGER.warning(
            "using %s as it is, made from %s, which cannot be compared: %s",
            self.folder,
            self._unseen(manifest) or "unknown inputs",
            self.missing,
        )
        key = replace(self.key, inputs=manifest.inputs)
        if manifest.code != key.code:
            manifest = accept(self.folder, manifest, key)
        travel.push(self.folder, manifest, key)
        return ref

    def differs(self, manifest: Manifest) -> str | None:
        """Return why an artifact cannot stand in, None when it can."""
        # Inputs that this machine lacks cannot be compared, so that both sides leave them out
        inputs = {name: manifest.inputs.get(name) for name in self.key.inputs}
        known = Manifest(**{**asdict(manifest), "inputs": inputs})
        changed = [
            part
            for part in reasons.changed_parts(known, self.key)
            if not (self.accept_code and part == "code")
        ]
        if changed:
            return f"other {' and '.join(changed)}"
        # The content of a missing file is unknown, but its name has to be among the inputs
        names = getattr(self.missing, "names", ())
        others = [name for name in names if name not in manifest.inputs]
        return f"it was not made from {', '.join(others)}" if others else None

    def _here(self, is_refused: bool) -> Manifest:
        missing = self.missing
        try:
            manifest = artifacts.verify(self.folder)
        except artifacts.DamagedArtifact as damage:
            raise FileNotFoundError(f"{missing}; no artifact can stand in: {damage}") from missing
        if manifest is None or is_refused:
            raise missing
        if reason := self.differs(manifest):
            raise FileNotFoundError(
                f"{missing}; {self.folder} cannot stand in: {reason}"
            ) from missing
        return manifest

    def _pull(self) -> bool:
        """Bring what the store has for this key, and return whether it is there now.

        Raises:
            FileNotFoundError: several artifacts agree with all that is known.
        """
        found = [one for one in travel.offered(self.key) if self.differs(one) is None]
        # They differ in inputs that nobody here can look at, so that none may be chosen
        if len(found) > 1:
            made_from = "; ".join(map(self._unseen, found))
            raise FileNotFoundError(
                f"{self.missing}; the store has {len(found)} artifacts that could stand in for "
                f"{self.folder}, allowed is one; they were made from {made_from}; put the files "
                "here, or remove the others from the store"
            ) from self.missing
        return any(travel.pull(self.folder, replace(self.key, inputs=one.inputs)) for one in found)

    def _unseen(self, manifest: Manifest) -> str:
        return ", ".join(
            f"{name} {digest}"
            for name, digest in manifest.inputs.items()
            if name not in self.key.inputs
        )


def accept(folder: Path, manifest: Manifest, key: Key) -> Manifest:
    """Record that an artifact made by other code is accepted, and return its manifest."""
    accepted = artifacts.accept_code(folder, manifest, key, modules_of(key.code))
    LOGGER.warning("accepted %s as made by other code (%s)", folder, accepted.accepted_code)
    return accepted
