"""Lists what a student is scored by.

`retrieval.py` computes these numbers. All code that shows or logs scores loops over this list, so a
further metric in percent is one more entry.
"""

from __future__ import annotations

from dataclasses import dataclass

DIRECTIONS = {"i2t": "Image to text (TR)", "t2i": "Text to image (IR)"}


@dataclass(frozen=True)
class Metric:
    """One number of a scored student, in percent; higher is better.

    Attributes:
        name: its key in scores, tables and MLflow.
        label: its name where it stands alone.
        heading: its name in a table, below the name of its direction.
        direction: key of `DIRECTIONS`, or "" for a number of both directions.
        decimals: printed digits after the point.
    """

    name: str
    label: str
    heading: str
    direction: str = ""
    decimals: int = 1


LISTED = (
    Metric("i2t_r1", "TR R@1", "R@1", "i2t"),
    Metric("i2t_r5", "TR R@5", "R@5", "i2t"),
    Metric("i2t_r10", "TR R@10", "R@10", "i2t"),
    Metric("t2i_r1", "IR R@1", "R@1", "t2i"),
    Metric("t2i_r5", "IR R@5", "R@5", "t2i"),
    Metric("t2i_r10", "IR R@10", "R@10", "t2i"),
    Metric("mean_recall", "mean recall", "Mean recall"),
)
BY_NAME = {metric.name: metric for metric in LISTED}
NAMES = tuple(BY_NAME)
