"""Imported sets that a profile names."""

from __future__ import annotations

from tasks.settings import steps
from tasks.settings.params import Params
from tasks.store import artifacts
from tasks.store.artifacts import Ref


def imported(params: Params) -> dict[str, Ref]:
    """Return the sets of `methods.imported`, by name.

    Raises:
        FileNotFoundError: one was not imported into this profile.
        DamagedArtifact: one does not verify.
    """
    found = {}
    for name in params.imported:
        folder = steps.imported(params, name)
        manifest = artifacts.verify(folder)
        if manifest is None:
            raise FileNotFoundError(
                f"methods.imported: received {str(name)!r}; {folder} is not there; run "
                f"`vl-distillery import PATH --as {name.method}`, or leave it out"
            )
        found[str(name)] = Ref(str(folder), manifest.digest, is_cached=True)
    return found
