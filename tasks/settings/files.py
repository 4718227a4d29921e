"""params.yaml and presets.yaml as they stand in the working directory, before anything is checked.

Imports no PyTorch, so that the command line completes names at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

PARAMS = Path("params.yaml")
PRESETS = "presets.yaml"


def read(path: Path) -> dict[str, Any]:
    """Return the content of a settings file.

    Raises:
        FileNotFoundError: it is not in the working directory.
        ValueError: it is no YAML, or no mapping.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is not in {Path.cwd()}; run from the top folder of the repository"
        )
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path} must hold sections, received {type(tree).__name__}")
    return tree
