"""`store`: the place that artifacts travel through. It belongs to no profile, and no key of an
artifact depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core.foundations.names import hint
from tasks.settings.files import PARAMS, read
from tasks.settings.overrides import value_of

STORE = "store"


def store_of(settings: Sequence[str], path: Path = PARAMS) -> str | None:
    """Return the store that params.yaml or an override names.

    It validates nothing else, so that a process that computes nothing needs no PyTorch.

    Raises:
        ValueError: it is no address, or holds a user.
    """
    found: Any = read(path).get(STORE)
    where = str(path)
    for setting in settings:
        key, _, text = setting.partition("=")
        if key == STORE:
            where = "--set"
            found = value_of(text, where)
    check_store(found, where)
    return found


def check_store(value: Any, where: str, *, may_have_user: bool = False) -> None:
    """Refuse what is no address of a store.

    Args:
        may_have_user: whether user and password may stand in it, which a file or a command line
            would show to others.
    """
    if value is None:
        return
    if not isinstance(value, str) or not value:
        raise ValueError(
            f"{where}: {STORE}: received {value!r}; allowed is an address as file:///data/store or "
            "s3://bucket/folder, or null for none"
        )
    # Imported here: a run without a store does not wait for fsspec
    from fsspec import available_protocols
    from fsspec.core import split_protocol

    scheme, _ = split_protocol(value)
    known = [str(protocol) for protocol in available_protocols()]
    if scheme is not None and scheme not in known:
        raise ValueError(
            f"{where}: {STORE}: received an address of {scheme!r}{hint(scheme, known)}; allowed "
            f"are {', '.join(sorted(known))}"
        )
    # A local path may hold an @; in any other address it ends a user
    if "@" in value.partition("://")[2] and not may_have_user and scheme not in (None, "file"):
        raise ValueError(
            f"{where}: {STORE}: received an address with a user; allowed is one without; set the "
            "variable VL_DISTILLERY_STORE to it, which nothing records"
        )
