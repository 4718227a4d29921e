"""Measures of made-up scores against numbers worked out by hand, and where they are shown."""

from __future__ import annotations

import pandas as pd
import pytest

from tasks.core.evaluation.measures import augmentation_robust_score, label_robust_score
from tasks.reporting.measures import further, listing, measured

HOME, UNSEEN, OTHER = "home", "unseen", "other"


def summary(*rows):
    columns = ("student", "method", "num_pairs", "mean_recall")
    frame = pd.DataFrame(rows, columns=columns)
    names = frame["method"] + "-" + frame["num_pairs"].astype(str)
    named = frame.assign(set=names.where(frame["method"] != "full", "full"), protocol="strict")
    return named.assign(num_bytes=1000.0)


OWN = (
    (HOME, "random", 20, 8.0),
    (HOME, "made", 20, 28.0),
    (HOME, "full", 700, 40.0),
)


def test_recovery_and_improvement_need_nothing_more():
    found = measured(summary(*OWN), "strict", HOME)
    assert listing(found, found["set"], "") is None
    assert further(found) == {"random-20": {}, "made-20": {}}
    made = found.set_index("set").loc["made-20"]
    assert made.to_dict() == pytest.approx({"recovery": 0.7, "ior_pairs": 0.2})


def test_random_pairs_of_the_same_bytes_have_a_column_where_they_are():
    rows = (*OWN, (HOME, "random_equal_bytes", 20, 22.0), (HOME, "random", 50, 9.0))
    found = measured(summary(*rows), "strict", HOME).set_index("set")["ior_bytes"]
    assert found["made-20"] == pytest.approx(0.06)
    assert found.drop("made-20").isna().all()
    larger = summary(*rows)
    larger.loc[larger["method"] == "made", "num_bytes"] = 4000.0
    assert "ior_bytes" not in measured(larger, "strict", HOME)


def test_plain_students_give_what_is_missing_to_full_data_and_the_robust_score():
    rows = (*OWN, (HOME, "made-plain", 20, 18.0))
    found = measured(summary(*rows), "strict", HOME).set_index("set")
    assert found.loc["made-20", "hlr"] == pytest.approx(0.22)
    assert found.loc["made-20", "lrs"] == pytest.approx(label_robust_score(0.2, 0.22))
    # Random pairs learned nothing: their own students are plain
    assert found.loc["random-20", "hlr"] == pytest.approx(0.32)
    assert "made-plain-20" not in found.index


def test_augmented_students_are_compared_with_augmented_random_pairs():
    rows = (*OWN, (HOME, "made-augmented", 20, 21.0))
    assert "ars" not in measured(summary(*rows), "strict", HOME)
    found = measured(summary(*rows, (HOME, "random-augmented", 20, 9.0)), "strict", HOME)
    found = found.set_index("set")
    assert found.loc["made-20", "ars"] == pytest.approx(augmentation_robust_score(0.2, 0.12))
    assert found.loc["random-20", "ars"] == pytest.approx(augmentation_robust_score(0.0, 0.0))
    assert set(found.index) == {"random-20", "made-20"}


def test_robustness_takes_the_encoders_that_distillation_never_saw():
    rows = (
        *OWN,
        *((UNSEEN, "random", 20, 7.0), (UNSEEN, "made", 20, 15.0), (UNSEEN, "full", 700, 30.0)),
        *((OTHER, "random", 20, 6.0), (OTHER, "made", 20, 10.0)),
    )
    found = measured(summary(*rows), "strict", HOME).set_index("set")["encoder_robustness"]
    assert found["made-20"] == pytest.approx((0.08 + 0.04) / 2 / 0.2)
    assert pd.isna(found["random-20"])  # it beats itself by nothing


def test_a_table_leaves_empty_what_is_unknown():
    rows = (*OWN, (HOME, "random_equal_bytes", 20, 22.0))
    found = measured(summary(*rows), "strict", HOME)
    assert further(found)["made-20"] == {"ior_bytes": 0.06}
    shown = listing(found, ["made-20", "full", "random-20"], "Here.")
    assert shown.caption.endswith(" Here.")
    assert shown.columns[:3] == ("set", "of full data, %", "IOR at equal pairs, points")
    assert shown.rows == (("made-20", "70.0", "20.0", "6.0"), ("random-20", "20.0", "0.0", ""))
