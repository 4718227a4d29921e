"""The numbers of a cell beside random selection of as many pairs, and of as many bytes."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tasks.core.evaluation.measures import augmentation_robust_score, label_robust_score
from tasks.core.evaluation.metrics import NAMES
from tasks.core.foundations.file_names import HISTORY
from tasks.reporting.cell_scores import of_cell
from tasks.store import caching
from tasks.store.artifacts import Key, Ref


def made(folder, files: dict[str, str]) -> Ref:
    def build(work):
        for name, text in files.items():
            (work / name).write_text(text)
        pd.DataFrame({"iteration": range(20), "loss": [3.0] * 18 + [1.0, 2.0]}).to_parquet(
            work / HISTORY, index=False
        )
        return {"device": "cpu"}

    return caching.obtain(folder, Key("distill", {"of": str(folder)}, {}, "code"), build)


def students(folder, *means: float, num_bytes: int = 8) -> list[Ref]:
    refs = []
    for seed, mean in enumerate(means):
        score = {**dict.fromkeys(NAMES, mean), "val_mean_recall": mean + 1}
        score["num_bytes"] = num_bytes
        refs.append(made(folder / str(seed), {"score.json": json.dumps(score)}))
    return refs


@pytest.fixture
def found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    means = {"lors-4": (20.0, 24.0), "random-4": (10.0, 12.0), "full": (40.0, 48.0)}
    return {name: students(tmp_path / name, *values) for name, values in means.items()}


def test_a_cell_is_compared_with_as_many_pairs_and_with_the_full_data(found, tmp_path):
    distilled = made(tmp_path / "set", {"a": "12345", "b": "678"})
    scores = of_cell("lors-4", found, distilled)
    assert scores["mean_recall"] == 22.0 and scores["mean_recall_std"] == pytest.approx(8**0.5)
    assert (scores["over_random"], scores["recovery"], scores["loss"]) == (2.0, 0.5, 1.5)
    assert scores["over_equal_bytes"] is None and scores["set_bytes"] == 8
    assert (scores["n"], scores["first_val"], scores["val"]) == (2, 21.0, 23.0)


def test_random_pairs_of_as_many_bytes_are_a_ratio_of_their_own(found, tmp_path):
    distilled = made(tmp_path / "set", {"a": "12345"})
    found["random_equal_bytes-4"] = students(tmp_path / "equal", 33.0, 11.0)
    assert of_cell("lors-4", found, distilled)["over_equal_bytes"] == 1.0
    found["random_equal_bytes-4"] = students(tmp_path / "fewer", 33.0, 11.0, num_bytes=7)
    assert of_cell("lors-4", found, distilled)["over_equal_bytes"] is None
    found["random_equal_bytes-4"] = students(tmp_path / "none", 0.0, 0.0)
    assert of_cell("lors-4", found, distilled)["over_equal_bytes"] is None


def test_plain_students_give_what_is_missing_to_the_full_data(found, tmp_path):
    distilled = made(tmp_path / "set", {"a": "12345"})
    assert of_cell("lors-4", found, distilled)["hlr"] is None
    found["lors-plain-4"] = students(tmp_path / "plain", 12.0, 16.0)
    scores = of_cell("lors-4", found, distilled)
    assert scores["hlr"] == pytest.approx(0.44 - 0.14)
    assert scores["lrs"] == pytest.approx(label_robust_score(0.22 - 0.11, 0.30))


def test_augmented_students_are_compared_with_augmented_random_pairs(found, tmp_path):
    distilled = made(tmp_path / "set", {"a": "12345"})
    assert of_cell("lors-4", found, distilled)["ars"] is None
    found["lors-augmented-4"] = students(tmp_path / "crops", 17.0, 19.0)
    found["random-augmented-4"] = students(tmp_path / "beside", 12.0, 12.0)
    ars = of_cell("lors-4", found, distilled)["ars"]
    assert ars == pytest.approx(augmentation_robust_score(0.11, 0.06))


def test_further_students_tell_how_robust_a_set_is(found, tmp_path):
    distilled = made(tmp_path / "set", {"a": "12345"})
    assert of_cell("lors-4", found, distilled)["encoder_robustness"] is None
    unseen = []
    for name, gain in (("one", 5.0), ("two", 3.0)):
        means = {"lors-4": 10.0 + gain, "random-4": 10.0}
        unseen.append({key: students(tmp_path / name / key, mean) for key, mean in means.items()})
    scores = of_cell("lors-4", found, distilled, unseen)
    assert scores["encoder_robustness"] == pytest.approx(4.0 / 11.0)
