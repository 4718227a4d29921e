"""What a user may name, and what is known of the datasets that have a name."""

import fnmatch
import json
import zipfile

import pytest
import yaml

from tasks.core.data.datasets import karpathy
from tasks.fetching.sources import KNOWN, source_of
from tasks.fetching.unpack import unpack
from tests.core.data.caption_samples import picture, read
from tests.workspace import ROOT

SPLITS = ("train", "val", "test")


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
        ("digests.json", None, "received 'digests.json', which may name no dataset"),
        ("Digests.JSON", None, "received 'Digests.JSON', which may name no dataset"),
        ("mine.dvc", None, "received 'mine.dvc', which may name no dataset"),
        (".gitignore", None, "received the dataset '.gitignore'"),
        ("https://x.org/a.zip", "digests.json", "--as: received 'digests.json', which may name no"),
        ("https://x.org/a.zip", "coco.DVC", "--as: received 'coco.DVC', which may name no dataset"),
        ("https://x.org/a.zip", ".partial", "--as: received the dataset '.partial'"),
        ("https://x.org/" + "a" * 300, "a", "names a file with a name of 300 bytes"),
        ("https://x.org/" + "%C3%A4" * 150, "a", "names a file with a name of 300 bytes"),
        ("https://me:word@x.org/a.zip", "a", "holds a user or a password"),
        ("https://me:wo[rd@x.org/a.zip", "a", "holds a user or a password"),
        ("https://me:word/word@x.org/a.zip", None, "holds a user or a password"),
        ("https://me:1?word@x.org/a.zip", None, "holds a user or a password"),
        ("https://me:wo\uff0frd@x.org/a.zip", "a", "holds a user or a password"),
        ("me:word@x.org/a.zip", None, "holds a user or a password"),
        ("https://x.org/a.zip?mail=me@x.org&key=word", None, "write any other @ as %40"),
        ("http://[x/a.zip?key=word", "a", "received 'http://\\[x/a.zip', which is no address"),
        ("https://x.org/a.zip?key=word#word", None, "--as is missing.* https://x.org/a.zip in raw"),
        ("http://x.org:pa/a.zip?key=word", "a", "which is no address"),
        ("http://x.org/a.zip?key=the word", "a", "received 'http://x.org/a.zip', which is no addr"),
        ("ftp://x.org/a.zip?key=word", "a", "received 'ftp://x.org/a.zip'"),
        ("pets", "https://x.org/a.zip?key=word", "--as: received an address, allowed is a name"),
        ("https://x.org/a.zip", "https://me:word@x.org", "--as: received an address, allowed is"),
        ("x.org/a.zip?key=word", None, "received 'x.org/a.zip'"),
        ("a.zip?key=word", None, "received 'a.zip'"),
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
    told = str(caught.value).replace("password", "")
    assert not [secret for secret in ("word", "wo[", "wo\uff0f", "me:") if secret in told]


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
            assert any(fnmatch.fnmatch(top, pattern) for pattern in source.layout)


def _entry(name, split, folder=None):
    place = {} if folder is None else {"filepath": folder}
    return {**place, "filename": name, "split": split, "sentences": [{"raw": "a dog"}]}


# Members of the archives as they are published, and what Karpathy's json says about them
FLICKR8K = {
    "dataset_flickr8k.json": [_entry(f"{split}.jpg", split) for split in SPLITS],
    "Flickr8k_Dataset.zip": ["Flicker8k_Dataset/", "__MACOSX/Flicker8k_Dataset/._train.jpg"]
    + [f"Flicker8k_Dataset/{split}.jpg" for split in SPLITS],
}
COCO = {
    "dataset_coco.json": [
        _entry("COCO_train2014_1.jpg", "train", "train2014"),
        _entry("COCO_val2014_2.jpg", "restval", "val2014"),
        _entry("COCO_val2014_3.jpg", "val", "val2014"),
        _entry("COCO_val2014_4.jpg", "test", "val2014"),
    ],
    "train2014.zip": ["train2014/", "train2014/COCO_train2014_1.jpg"],
    "val2014.zip": ["val2014/"] + [f"val2014/COCO_val2014_{number}.jpg" for number in (2, 3, 4)],
}


def _archive(path, name, content):
    with zipfile.ZipFile(path, "w") as archive:
        if name == "caption_datasets.zip":
            for dataset in (FLICKR8K, COCO):
                file = next(iter(dataset))
                archive.writestr(file, json.dumps({"images": dataset[file]}))
            return
        for member in content[name]:
            archive.writestr(member, b"" if member.endswith("/") else picture(1))


@pytest.mark.parametrize(("name", "content", "num_images"), [("flickr8k", FLICKR8K, 3),
                                                             ("coco", COCO, 4)])  # fmt: skip
def test_what_is_unpacked_is_what_the_profile_reads(name, content, num_images, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    for file in KNOWN[name].files:
        _archive(tmp_path / file.name, file.name, content)
        unpack(tmp_path / file.name, file, whole, lambda done, total: None)
    assert [pattern for pattern in KNOWN[name].layout if not any(whole.glob(pattern))] == []
    profiles = yaml.safe_load((ROOT / "params.yaml").read_text())["profiles"]
    options = profiles[name]["prepare_data"]["options"] | {"path": str(whole)}
    found = read(karpathy, karpathy.Config(**options))
    assert len(found) == num_images
    assert {example.load().size for example in found} == {(17, 12)}
