"""The name of a set that students train on: its method and its size.

Folders, rows of tables and runs of MLflow carry it as text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FULL = "full"
DECODED = "-decoded"  # ends the label of a method; no name of a plugin holds a hyphen


@dataclass(frozen=True, order=True)
class SetName:
    """`<method>-<num_pairs>`, `<method>-decoded-<num_pairs>`, or `full` for all of the training
    split.

    Attributes:
        num_pairs: the budget, None for all pairs. A distilled set may hold a pair fewer, which
            paid for its similarity.
        is_decoded: whether it is a distilled or imported set with the nearest training sentences
            in place of its texts.
    """

    method: str
    num_pairs: int | None = None
    is_decoded: bool = False

    def __str__(self) -> str:
        return self.label if self.num_pairs is None else f"{self.label}-{self.num_pairs}"

    @property
    def label(self) -> str:
        """The method as rows of tables name it."""
        return f"{self.method}{DECODED}" if self.is_decoded else self.method

    def decoded(self) -> SetName:
        """Return the name of this set with sentences in place of its texts."""
        return replace(self, is_decoded=True)

    @classmethod
    def parse(cls, text: str) -> SetName:
        """Return the name that `str` wrote.

        Raises:
            ValueError: `text` is neither `full` nor `<method>-<num_pairs>`.
        """
        label, _, size = text.rpartition("-")
        method = label.removesuffix(DECODED)
        if text == FULL:
            return cls(FULL)
        if not method or not size.isdecimal():
            raise ValueError(
                f"received the set name {text!r}; allowed is `{FULL}` or `<method>-<num_pairs>`"
            )
        return cls(method, int(size), is_decoded=label != method)
