"""What a user may name, and what is known of the datasets that have a name."""

import pytest
import yaml

from tasks.fetching.sources import KNOWN, source_of
from tests.workspace import ROOT


@pytest.mark.parametrize(
    ("what", "name", "message"),
    [
        ("flikr8k", None, r"received 'flikr8k' \(did you mean 'flickr8k'\?\)"),
        ("../x", None, "received the dataset '../x'"),
        ("coco", "mine", "--as: received 'mine' beside 'coco'"),
        ("https://x.org/a.zip", None, "--as is missing"),
        ("https://x.org/a.zip", "../a", "--as: received the dataset '../a'"),
        ("https://x.org/a.zip", "coco", "--as: received 'coco', a dataset that is known"),
        ("https://x.org/", "a", "names no file"),
        ("https://x.org/..", "a", "received image name '..'|names no file"),
        ("https://x.org/%2e%2e%2fetc%2fa", "a", "^$"),
        ("https://me:word@x.org/a.zip", "a", "holds a user or a password"),
        ("ftp://x.org/a.zip", "a", "allowed are addresses that begin with https://"),
        ("file:///etc/passwd", "a", "allowed are addresses that begin with https://"),
        ("https:///a.zip", "a", "allowed are addresses that begin with https://"),
        ("http://[x/a.zip", "a", "which is no address"),
    ],
)
def test_what_cannot_be_fetched_is_one_message(what, name, message):
    if message == "^$":  # a name with separators is cut to its last part
        assert source_of(what, name, has_folder=False).files[0].name == "a"
        return
    with pytest.raises(ValueError, match=message) as caught:
        source_of(what, name, has_folder=False)
    assert "word" not in str(caught.value).replace("password", "")


def test_every_known_dataset_has_terms_and_what_its_profile_reads():
    profiles = yaml.safe_load((ROOT / "params.yaml").read_text())["profiles"]
    for name, source in KNOWN.items():
        options = profiles[name]["prepare_data"]["options"]
        assert options["path"] == f"raw/{name}"
        assert source.layout == (options["annotations"], *options["images"])
        assert "https://" in source.terms


def test_files_of_known_datasets_go_where_their_profiles_look():
    for source in KNOWN.values():
        for file in source.files:
            top = (file.tar or file.kept[0]).partition("/")[0]
            assert any(_matches(top, pattern) for pattern in source.layout)


def _matches(name, pattern):
    import fnmatch

    return fnmatch.fnmatch(name, pattern)
