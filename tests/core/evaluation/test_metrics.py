"""The list of metrics names exactly what is computed."""

from __future__ import annotations

import torch

from tasks.core.evaluation.metrics import DIRECTIONS, LISTED, NAMES
from tasks.core.evaluation.retrieval import recall


def test_the_list_names_what_a_student_is_scored_by():
    found = recall(torch.eye(12), torch.eye(12), torch.arange(12))
    assert set(found) == set(NAMES) and len(NAMES) == len(LISTED)


def test_every_metric_has_a_place_in_the_tables_and_a_label_of_its_own():
    assert {metric.direction for metric in LISTED} == {*DIRECTIONS, ""}
    assert len({metric.label for metric in LISTED}) == len(LISTED)
