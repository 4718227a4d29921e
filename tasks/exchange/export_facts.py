"""Reads `set.json`, the facts of an export, for an import; checks them before all other files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from tasks.core.training.eight_bits import Storage
from tasks.exchange.export import FORMAT_VERSIONS
from tasks.exchange.layouts import LAYOUTS
from tasks.exchange.published import is_normalisation

# Their types in json
FACTS_READ: dict[str, Any] = {
    "format_version": int,
    "layout": str,
    "files": dict,
    "text_encoder": dict,
    "text_encoder_sha256": dict,
    "image_encoder_sha256": str,
    "mean": list,
    "std": list,
    "step_sizes": dict | None,
    "loss": str,
    "storage": str,
    "real_bytes": int | None,
    "sim_alpha": int | float | None,
    "num_images": int | None,
    "parts": int,
    "picture_size": int | None,
    "image_size": int | None,
}
# Values of facts that older exports, which are of version 1, do not have
UNSAID: dict[str, Any] = {
    "storage": "float32",
    "real_bytes": None,
    "num_images": None,
    "parts": 1,
    "picture_size": None,
    "image_size": None,
}
COUNTS = ("real_bytes", "num_images", "parts", "picture_size", "image_size")


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts of an export that an import reads.

    Raises:
        ValueError: one is missing, of another kind, or not among what is allowed.
    """
    try:
        said = json.loads(path.read_text())
        facts: Any = {**UNSAID, **said}
        # Of version 2 an older export there is none
        unsaid = UNSAID if facts.get("format_version") == 1 else {}
        missing = [name for name in FACTS_READ if name not in {**unsaid, **said}]
        version = None if missing else facts["format_version"]
        if version not in FORMAT_VERSIONS or facts["layout"] not in LAYOUTS:
            raise ValueError(
                f"version {version!r}, without {', '.join(missing) or 'a known layout'}"
            )
        for name, kind in FACTS_READ.items():
            if not isinstance(facts[name], kind):
                raise ValueError(f"{name}: {facts[name]!r:.60}")
        if not is_normalisation(facts["mean"], facts["std"]):
            raise ValueError(f"mean, std: {facts['mean']!r:.60}, {facts['std']!r:.60}")
        if facts["storage"] not in get_args(Storage):
            raise ValueError(
                f"storage: {facts['storage']!r:.60}, not {' or '.join(get_args(Storage))}"
            )
        for name in COUNTS:
            if facts[name] is not None and facts[name] < 1:
                raise ValueError(f"{name}: {facts[name]!r:.60}")
        sizes = facts["step_sizes"]
        if sizes is not None and (
            set(sizes) != {"img", "txt"} or not all(isinstance(v, float) for v in sizes.values())
        ):
            raise ValueError(f"step_sizes: {sizes!r:.60}")
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: received {error}; allowed are the facts of an export of version "
            f"{' or '.join(map(str, FORMAT_VERSIONS))}; export the set again"
        ) from error
    return {name: facts[name] for name in FACTS_READ}
