"""The result in one sentence: the best distilled set beside random, the best other selection and
full data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from tasks.reporting.tables import FULL, RANDOM


@dataclass(frozen=True)
class Headline:
    """Mean recalls in percent; `rival` is the best selection other than random of the same size,
    None if there is none.

    Attributes:
        over_random, recovery: NaN where random is 0 or full data was not trained.
        full: NaN where full data was not trained.
    """

    method: str
    num_pairs: int
    n: int
    value: float
    std: float
    random: float
    random_std: float
    over_random: float
    rival: str | None
    rival_value: float
    rival_std: float
    full: float
    full_std: float
    recovery: float

    @property
    def sentence(self) -> str:
        """One or two plain sentences, ASCII only."""
        students = "student" if self.n == 1 else "students"
        spread = "" if math.isnan(self.std) else f", standard deviation {self.std:.1f}"
        text = (
            f"{self.method} with {self.num_pairs} pairs reaches {self.value:.1f} mean recall "
            f"(mean of {self.n} {students}{spread})"
        )
        parts = (
            []
            if math.isnan(self.over_random)
            else [f"{self.over_random:.2f} times random selection of the same size"]
        )
        parts += [] if math.isnan(self.recovery) else [f"{100 * self.recovery:.1f} % of full data"]
        text += (": " + " and ".join(parts) if parts else "") + "."
        if self.rival:
            text += (
                f" The best other selection of {self.num_pairs} pairs, {self.rival}, reaches "
                f"{self.rival_value:.1f}."
            )
        return text


def headline(shown: pd.DataFrame, distilled: frozenset[str]) -> Headline:
    """Return the headline of the distilled set with the highest mean recall, or of the best
    selection where nothing is distilled.
    """
    small = shown[shown["method"] != FULL]
    if small.empty:
        raise ValueError(
            "a report needs at least one set beside full data; received the methods "
            f"{sorted(set(shown['method']))}; allowed is any list "
            "with random in it; change `methods.coresets` in params.yaml"
        )
    made = small[small["set"].isin(distilled)]
    candidates = small if made.empty else made
    best = candidates.loc[candidates["mean_recall"].idxmax()]
    same_size = small[small["num_pairs"] == best["num_pairs"]]
    random = same_size[same_size["method"] == RANDOM].iloc[0]
    others = same_size[
        ~same_size["set"].isin(distilled) & ~same_size["method"].isin([RANDOM, best["method"]])
    ]
    rival = others.loc[others["mean_recall"].idxmax()] if len(others) else None
    full = shown[shown["method"] == FULL]
    return Headline(
        method=str(best["method"]),
        num_pairs=int(best["num_pairs"]),
        n=int(best["n"]),
        value=float(best["mean_recall"]),
        std=float(best["mean_recall_std"]),
        random=float(random["mean_recall"]),
        random_std=float(random["mean_recall_std"]),
        over_random=float(best["over_random"]),
        rival=None if rival is None else str(rival["method"]),
        rival_value=math.nan if rival is None else float(rival["mean_recall"]),
        rival_std=math.nan if rival is None else float(rival["mean_recall_std"]),
        full=float(full["mean_recall"].iloc[0]) if len(full) else math.nan,
        full_std=float(full["mean_recall_std"].iloc[0]) if len(full) else math.nan,
        recovery=float(best["recovery"]),
    )
