"""What flows hand to each other: references to the artifacts made so far, as plain data that
Prefect can show.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.keys import Inputs
from tasks.store.artifacts import Ref


@dataclass(frozen=True)
class Refs:
    """References by stage; a stage adds its own with `dataclasses.replace`.

    Attributes:
        start: the image encoder that all experts share, with its features when it is frozen.
        student_starts: the same of each further student, by name.
        coresets, imported, distilled: by set name, `<method>-<num_pairs>`.
        scores: one per student.
        galleries: in the order of `distilled`.
    """

    prepared: Ref | None = None
    embeddings: Ref | None = None
    start: Ref | None = None
    experts: list[Ref] = field(default_factory=list)
    coresets: dict[str, Ref] = field(default_factory=dict)
    imported: dict[str, Ref] = field(default_factory=dict)
    distilled: dict[str, Ref] = field(default_factory=dict)
    student_starts: dict[str, Ref] = field(default_factory=dict)
    scores: list[Ref] = field(default_factory=list)
    galleries: list[Ref] = field(default_factory=list)
    report: Ref | None = None

    @property
    def inputs(self) -> Inputs:
        """What a network of the distilled kind is trained on and begins with."""
        assert self.prepared and self.embeddings and self.start
        return Inputs(self.prepared, self.embeddings, self.start)

    def all(self) -> list[Ref]:
        """Return the references of what flows make, in the order of the stages.

        Imported sets are not among them: `vl-distillery import` made them.
        """
        single = (self.prepared, self.embeddings, self.start)
        return [
            *(ref for ref in single if ref),
            *self.experts,
            *self.coresets.values(),
            *self.distilled.values(),
            *self.student_starts.values(),
            *self.scores,
            *self.galleries,
            *([self.report] if self.report else []),
        ]

    def count(self) -> tuple[int, int]:
        """Return how many artifacts were made and how many were there."""
        cached = sum(ref.is_cached for ref in self.all())
        return len(self.all()) - cached, cached
