"""Where the weights of a text encoder come from: packages are found without running anything, and
code beside weights is never run.
"""

import json
import os

import pytest

from tasks.core.networks.text_encoders import transformers
from tests.core.networks.test_encoders_named import save_bert


def _config(weights):
    own = {"pooling": "mean", "is_normalised": False, "max_tokens": 16, "batch_size": 8}
    return transformers.Config(name="tiny", weights=str(weights), dtype="float32", **own)


def _package(folder, name, *, with_weights=True):
    """Write a package that leaves a file behind when it is imported."""
    place = folder.joinpath(*name.split("."))
    place.mkdir(parents=True)
    for path in (place, *place.parents):
        if path == folder:
            break
        (path / "__init__.py").write_text(f"open({str(folder / 'was_imported')!r}, 'w')\n")
    if with_weights:
        (place / "model").mkdir()
        save_bert(place / "model", is_distilled=False)
    return place


@pytest.mark.parametrize("name", ["a", "a.b", "a.b.c"])
def test_a_package_is_found_where_it_is_installed_and_nothing_of_it_is_run(
    name, tmp_path, monkeypatch
):
    place = _package(tmp_path / "site", name)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert transformers.source(_config(f"package:{name}/model")) == place / "model"
    assert not (tmp_path / "site/was_imported").exists()


@pytest.mark.parametrize("entry", ["", "."])
@pytest.mark.parametrize("name", ["a", "a.b"])
def test_the_working_folder_is_no_place_of_packages(name, entry, tmp_path, monkeypatch):
    _package(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(entry and str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"working folder is not searched, give a folder"):
        transformers.source(_config(f"package:{name}/model"))
    assert not (tmp_path / "was_imported").exists()
    assert transformers.source(_config(os.path.join(*name.split("."), "model")))


@pytest.mark.parametrize("name", ["", ".", "..", "a..b", "sys", "json.decoder", "tests.core/../.."])
def test_what_is_no_installed_package_is_refused(name):
    with pytest.raises(FileNotFoundError, match=r"not installed|no config\.json"):
        transformers.source(_config(f"package:{name}/model"))


def test_code_beside_known_kinds_of_networks_is_left_alone(tmp_path, monkeypatch):
    """A known kind needs none of it, and is read by the library's own class."""
    save_bert(tmp_path, is_distilled=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.py").write_text("open('was_run', 'w')\n")
    code = {"AutoConfig": "x.X", "AutoModel": "x.X", "AutoTokenizer": ["x.X", "x.X"]}
    for name in ("config.json", "tokenizer_config.json"):
        held = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps({**held, "auto_map": code}))
    config = _config(tmp_path)
    captions = transformers.examples(config)
    assert transformers.embed(config, captions).shape == (2, 12)
    assert not (tmp_path / "was_run").exists()


def test_a_tokenizer_that_is_code_is_refused(tmp_path):
    save_bert(tmp_path, is_distilled=False)
    code = {"AutoTokenizer": ["x.X", None]}
    held = {"tokenizer_class": "XTokenizer", "auto_map": code}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(held))
    (tmp_path / "x.py").write_text("open('was_run', 'w')\n")
    for name in ("vocab.txt", "tokenizer.json"):
        (tmp_path / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"never run|knows no word|no pad token"):
        transformers.examples(_config(tmp_path))


def test_examples_are_words_of_the_tokenizer(tmp_path):
    save_bert(tmp_path, is_distilled=True)
    config = _config(tmp_path)
    captions = transformers.examples(config)
    first, second = captions
    assert first != second and first in second
    assert transformers.embed(config, captions).std() > 0.0
