"""Raw data that a setting names."""

import pytest

from tasks import preflight
from tasks.settings import params
from tests.workspace import ROOT

FOLDER = "{{path: {}, train: [a], val: [b], test: [c], shares: null}}"


def test_data_that_a_setting_names_are_no_other_data_that_were_prepared_before(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    settings = ["prepare_data.dataset=folder", f"prepare_data.options={FOLDER.format('raw/mine')}"]
    chosen = params.load(settings, path=ROOT / "params.yaml")
    with pytest.raises(FileNotFoundError, match=r"'raw/mine'.*without this --set alone"):
        preflight.check_named_data(chosen, settings)
    with pytest.raises(FileNotFoundError, match="raw/mine"):
        preflight.check_named_data(chosen, ["prepare_data.options.path=raw/mine"])
    # Nobody named them: artifacts of another machine may stand in
    preflight.check_named_data(chosen, ["prepare_data.image_size=32"])
    toy = params.load(path=ROOT / "params.yaml")
    preflight.check_named_data(toy, ["prepare_data.options.num_images=4"])
