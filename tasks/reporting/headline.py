"""The result in one sentence: the best distilled set beside random, the best other selection and
full data.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from tasks.reporting.tables import FULL, RANDOM, is_again
from tasks.settings.sets import DECODED, EQUAL_BYTES


@dataclass(frozen=True)
class Headline:
    """Rows of the summary, mean recalls in percent.

    Attributes:
        best: the set that is spoken of. Its ratios are NaN where random is 0 or full data was not
            trained.
        random: random selection of the same size.
        rival: the best selection other than random of the same size, None if there is none.
        full: full data, None where they were not trained.
        in_words: the best set with sentences in place of its texts, None where it was not scored.
    """

    best: pd.Series
    random: pd.Series
    rival: pd.Series | None
    full: pd.Series | None
    in_words: pd.Series | None

    @property
    def sentence(self) -> str:
        """One to three plain sentences, ASCII only."""
        best = self.best
        students = "student" if best["n"] == 1 else "students"
        spread = best["mean_recall_std"]
        deviation = "" if pd.isna(spread) else f", standard deviation {spread:.1f}"
        parts = []
        if pd.notna(best["over_random"]):
            parts.append(f"{best['over_random']:.2f} times random selection of the same size")
        # Above full data the share says nothing, see `tables.ABOVE_FULL`
        if best["recovery"] <= 1.0:
            parts.append(f"{100 * best['recovery']:.1f} % of full data")
        text = (
            f"{best['method']} with {best['num_pairs']} pairs reaches {best['mean_recall']:.1f} "
            f"mean recall (mean of {best['n']} {students}{deviation})"
        )
        text = ": ".join([text, *filter(None, [" and ".join(parts)])]) + "."
        if self.in_words is not None:
            text += (
                " With the nearest training sentences in place of its texts it reaches "
                f"{self.in_words['mean_recall']:.1f}."
            )
        if self.rival is not None:
            text += (
                f" The best coreset besides random, {self.rival['method']}, "
                f"reaches {self.rival['mean_recall']:.1f}."
            )
        return text


def headline(shown: pd.DataFrame, distilled: frozenset[str]) -> Headline:
    """Return the headline of the distilled set with the highest mean recall, or of the best
    selection where nothing is distilled.
    """
    small, full = shown[shown["method"] != FULL], shown[shown["method"] == FULL]
    if small.empty:
        raise ValueError(
            "a report needs at least one set beside full data; received the methods "
            f"{sorted(set(shown['method']))}; allowed is any list "
            "with random in it; change `methods.coresets` in params.yaml"
        )
    # A distilled set is spoken of even where a selection is better: it is what the report is about
    is_made = small["set"].isin(distilled)
    best = _best(small[is_made] if is_made.any() else small[small["method"] != EQUAL_BYTES])
    assert best is not None
    same_size = small["num_pairs"] == best["num_pairs"]
    # Random pairs of equal bytes are no coreset of this size
    is_other = ~small["method"].isin([RANDOM, EQUAL_BYTES, best["method"]])
    is_chosen = ~is_made & ~is_again(small) & is_other
    others = small[same_size & is_chosen]
    random = _best(small[same_size & (small["method"] == RANDOM)])
    assert random is not None
    decoded = small[same_size & (small["method"] == f"{best['method']}{DECODED}")]
    return Headline(best, random, _best(others), _best(full), _best(decoded))


def _best(rows: pd.DataFrame) -> pd.Series | None:
    """Return the row with the highest mean recall, None of no rows."""
    return None if rows.empty else rows.loc[rows["mean_recall"].idxmax()]
