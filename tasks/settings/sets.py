"""The name of a set that students train on: its method and its size.

Folders, rows of tables and runs of MLflow carry it as text.
"""

from __future__ import annotations

from dataclasses import dataclass

FULL = "full"


@dataclass(frozen=True, order=True)
class SetName:
    """`<method>-<num_pairs>`, or `full` for all of the training split.

    Attributes:
        num_pairs: the budget, None for all pairs. A distilled set may hold a pair fewer, which
            paid for its similarity.
    """

    method: str
    num_pairs: int | None = None

    def __str__(self) -> str:
        return self.method if self.num_pairs is None else f"{self.method}-{self.num_pairs}"

    @classmethod
    def parse(cls, text: str) -> SetName:
        """Return the name that `str` wrote.

        Raises:
            ValueError: `text` is neither `full` nor `<method>-<num_pairs>`.
        """
        method, _, size = text.rpartition("-")
        if text == FULL:
            return cls(FULL)
        if not method or not size.isdecimal():
            raise ValueError(
                f"received the set name {text!r}; allowed is `{FULL}` or `<method>-<num_pairs>`"
            )
        return cls(method, int(size))
