"""What renders our templates. Captions and names are user data, so autoescape is always on."""

from __future__ import annotations

import math
from pathlib import Path

import jinja2

from tasks.core.evaluation.metrics import DIRECTIONS, LISTED
from tasks.core.foundations.durable import write_text

TEMPLATES = Path(__file__).parent / "templates"
DASH = "\u2013"


def environment() -> jinja2.Environment:
    """Return what renders our templates, with the filters `number` and `duration` and the test
    `known`; autoescape is always on.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        # A name that a template misspells ends the run; by default it would show an empty text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"metrics": LISTED, "directions": DIRECTIONS}
    environment.filters["number"] = _number
    environment.filters["duration"] = _duration
    environment.tests["known"] = lambda value: not math.isnan(value)
    return environment


def write_all(folder: Path, name: str, texts: dict[str, str]) -> list[Path]:
    """Write `<name>.<ending>` for each text below `folder`, each whole or not at all; returns their
    paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {ending: folder / f"{name}.{ending}" for ending in texts}
    for ending, path in paths.items():
        write_text(path, texts[ending])
    return list(paths.values())


def _number(value: float, digits: int = 1) -> str:
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
