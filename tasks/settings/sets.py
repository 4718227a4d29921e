"""The name of a set that students train on: its method and its size.

Folders, rows of tables and runs of MLflow carry it as text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FULL = "full"
# A coreset: `random_equal_bytes-100` has the bytes of 100 synthetic pairs, so more than 100 pairs
EQUAL_BYTES = "random_equal_bytes"
# Endings of a method's label, of a set that is scored a further time; no name of a plugin holds a
# hyphen
DECODED, PLAIN = "-decoded", "-plain"


@dataclass(frozen=True, order=True)
class SetName:
    """`<method>-<num_pairs>`, the same with an ending after the method, or `full` for all of the
    training split.

    Attributes:
        num_pairs: the budget, None for all pairs. A distilled set may hold a pair fewer, which
            paid for its similarity.
        ending: `DECODED` with the nearest training sentences in place of its texts, `PLAIN` with
            students of the plain recipe; empty for the set as it is.
    """

    method: str
    num_pairs: int | None = None
    ending: str = ""

    def __str__(self) -> str:
        return self.label if self.num_pairs is None else f"{self.label}-{self.num_pairs}"

    @property
    def label(self) -> str:
        """The method as rows of tables name it."""
        return f"{self.method}{self.ending}"

    def again(self, *, decoded: bool, plain: bool) -> list[SetName]:
        """Return the names by which this set is scored a further time."""
        asked = {DECODED: decoded, PLAIN: plain}
        return [replace(self, ending=ending) for ending, is_asked in asked.items() if is_asked]

    @classmethod
    def parse(cls, text: str) -> SetName:
        """Return the name that `str` wrote.

        Raises:
            ValueError: `text` is neither `full` nor `<method>-<num_pairs>`.
        """
        label, _, size = text.rpartition("-")
        ending = next((one for one in (DECODED, PLAIN) if label.endswith(one)), "")
        method = label.removesuffix(ending)
        if text == FULL:
            return cls(FULL)
        if not method or not size.isdecimal():
            raise ValueError(
                f"received the set name {text!r}; allowed is `{FULL}` or `<method>-<num_pairs>`"
            )
        return cls(method, int(size), ending)
