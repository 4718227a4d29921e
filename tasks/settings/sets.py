"""The name of a set that students train on: its method and its size.

Folders, rows of tables and runs of MLflow carry it as text.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

FULL = "full"
# A coreset: `random_equal_bytes-100` has the bytes of 100 synthetic pairs, so more than 100 pairs
EQUAL_BYTES = "random_equal_bytes"
RANDOM = "random"
# Endings of a method's label, of a set that is scored a further time; no name of a plugin holds a
# hyphen
DECODED, PLAIN, AUGMENTED, CEILING = "-decoded", "-plain", "-augmented", "-ceiling"
ENDINGS = (DECODED, PLAIN, AUGMENTED, CEILING)


@dataclass(frozen=True, order=True)
class SetName:
    """`<method>-<num_pairs>`, the same with an ending after the method, or `full` for all of the
    training split.

    Attributes:
        num_pairs: the budget, None for all pairs. A distilled set may hold a pair fewer, which
            paid for its similarity.
        ending: empty for the set as it is. `DECODED` has the nearest training sentences in place
            of its texts. `PLAIN` has students of the plain recipe, `AUGMENTED` crops of its
            pictures, and `CEILING` linear heads in closed form.
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

    @property
    def is_random(self) -> bool:
        """Whether it is random pairs of its size, with any ending."""
        return self.method == RANDOM

    def again(self, *, decoded: bool, plain: bool, augmented: bool) -> list[SetName]:
        """Return the names by which this set is scored a further time.

        Random pairs have sentences and learned nothing: they are augmented, as what other sets are
        compared with.
        """
        asked = {AUGMENTED: augmented}
        if not self.is_random:
            asked |= {DECODED: decoded, PLAIN: plain}
        return [replace(self, ending=ending) for ending, is_asked in asked.items() if is_asked]

    @classmethod
    def parse(cls, text: str) -> SetName:
        """Return the name that `str` wrote.

        Raises:
            ValueError: `text` is neither `full` nor `<method>-<num_pairs>`.
        """
        for whole in (cls(FULL), cls(FULL, ending=CEILING)):
            if text == str(whole):
                return whole
        label, _, size = text.rpartition("-")
        ending = next((one for one in ENDINGS if label.endswith(one)), "")
        method = label.removesuffix(ending)
        if not method or not size.isdecimal():
            raise ValueError(
                f"received the set name {text!r}; allowed is `{FULL}` or `<method>-<num_pairs>`"
            )
        return cls(method, int(size), ending)


def ceilings(budgets: Iterable[int]) -> list[SetName]:
    """Return the names of the ceilings of linear heads: of the full data, and for each size of any
    pairs and of random images (`core/evaluation/ceilings.py`).
    """
    found = [SetName(FULL, ending=CEILING)]
    for size in budgets:
        # Two centred pairs give one number a row, and its cosines are all 1 or -1
        if size > 2:
            found += [SetName(method, size, CEILING) for method in (FULL, RANDOM)]
    return found
