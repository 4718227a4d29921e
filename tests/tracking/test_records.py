"""A record survives its file, and a damaged one is refused."""

import json

import pytest

from tasks.tracking import records
from tasks.tracking.records import Input, Part, Record, Run

RUN = Run("toy pipeline", {"level": "x"}, {"seed": "0"}, [Input("toy", "d" * 64, "{}")])
RECORD = Record(
    "toy",
    "abc",
    RUN,
    [Part(RUN, "tag", "1", [(3, {"loss": 0.1})], ["a/b"]), Part(None, "all", "2")],
)


def test_a_record_comes_back_from_its_file(tmp_path):
    (tmp_path / "record").write_text(RECORD.to_json())
    found = records.read(tmp_path / "record")
    assert found.to_json() == RECORD.to_json()
    assert found.parts[0].child == RUN and found.parts[1].child is None
    assert found.parent.inputs == RUN.inputs


@pytest.mark.parametrize(
    "change", [{"format_version": 2}, {"parts": [{"child": None}]}, {"unknown": 1}, {"parent": {}}]
)
def test_a_record_of_another_form_is_refused(tmp_path, change):
    (tmp_path / "record").write_text(json.dumps({**json.loads(RECORD.to_json()), **change}))
    with pytest.raises((ValueError, KeyError, TypeError)):
        records.read(tmp_path / "record")
