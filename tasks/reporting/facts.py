"""What the page says about its run, beside numbers and pictures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    """A run in words; the page lists them.

    Attributes:
        dataset: the name that published numbers are looked up by.
        protocol, student: those that tables and figures show.
        models: names of the encoders.
        num_students: of each set.
        machine: what students were trained and sets distilled on.
        versions: of packages; None for one that is not installed.
        seconds: by stage.
        left_out: what of the dataset was not used, in words.
    """

    profile: str
    dataset: str
    protocol: str
    student: str
    models: tuple[str, ...]
    num_students: int
    commit: str
    is_dirty: bool
    parameters_hash: str
    machine: str
    versions: dict[str, str | None]
    seconds: dict[str, float]
    left_out: str
