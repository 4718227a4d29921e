"""Measures of a set, from recalls by name."""

import pytest

from tasks.beside import measures_of
from tasks.core.evaluation.measures import augmentation_robust_score, label_robust_score
from tasks.settings.sets import SetName

HOME = {"random-9": 0.08, "made-9": 0.28, "random_equal_bytes-9": 0.2, "full": 0.4}
PLAIN = {"made-plain-9": 0.18, "random_equal_bytes-plain-9": 0.2}
CROPS = {
    "made-augmented-9": 0.21,
    "random-augmented-9": 0.09,
    "random_equal_bytes-augmented-9": 0.2,
}
AWAY = {"random-9": 0.08, "made-9": 0.18, "random_equal_bytes-9": 0.3}


def told(name: str, found: dict[str, float], *unseen: dict[str, float], **words: bool):
    home, *away = (lambda one, own=own: own.get(str(one)) for own in (found, *unseen))
    return measures_of(SetName.parse(name), home, away, **words)


def test_each_measure_is_told_where_what_it_needs_is_there():
    always = {"recovery": 0.7, "ior_pairs": 0.2}
    assert told("made-9", HOME) == pytest.approx(always)
    assert told("made-9", HOME | {"full": 0.0}) == pytest.approx({"ior_pairs": 0.2})
    assert told("made-9", {"made-9": 0.28}) == {}
    found = told("made-9", HOME | PLAIN | CROPS, AWAY, {"full": 0.3}, has_alike_bytes=True)
    assert found == pytest.approx(
        {
            **always,
            "hlr": 0.22,
            "lrs": label_robust_score(0.2, 0.22),
            "ars": augmentation_robust_score(0.2, 0.12),
            "ior_bytes": 0.08,
            "encoder_robustness": 0.5,
        }
    )
    again = told("made-augmented-9", HOME | PLAIN | CROPS, AWAY, has_alike_bytes=True)
    assert again == pytest.approx({"recovery": 0.525, "ior_pairs": 0.13})


def test_real_pairs_of_equal_bytes_are_more_pairs_and_have_no_points_over_random():
    found = told("random_equal_bytes-9", HOME | PLAIN | CROPS, AWAY, has_alike_bytes=True)
    assert found == pytest.approx({"recovery": 0.5, "hlr": 0.2})


def test_the_full_data_and_sets_without_scores_have_no_measure():
    assert told("full", HOME) == told("other-9", HOME) == {}
