"""The name of a set is read back from its text, and a text that names none is refused."""

import pytest

from tasks.settings import params
from tasks.settings.sets import FULL, SetName, ceilings

ASKED = {"decoded": False, "plain": False, "augmented": False}


@pytest.mark.parametrize(
    "name", [SetName("random", 20), SetName("k-center", 7), SetName("bi_trajectory", 500)]
)
def test_a_name_is_its_method_and_its_size(name):
    assert str(name) == f"{name.method}-{name.num_pairs}"
    assert SetName.parse(str(name)) == name


@pytest.mark.parametrize("kind", ["decoded", "plain", "augmented"])
def test_a_further_row_of_a_set_is_named_after_its_own(kind):
    name = SetName("bi_trajectory", 20)
    (further,) = name.again(**{**ASKED, kind: True})
    assert str(further) == f"bi_trajectory-{kind}-20"
    assert SetName.parse(str(further)) == further != name
    assert further.label == f"bi_trajectory-{kind}" and further.method == name.method
    assert name.again(**ASKED) == []


def test_random_pairs_are_augmented_alone():
    asked = dict.fromkeys(ASKED, True)
    assert list(map(str, SetName("random", 20).again(**asked))) == ["random-augmented-20"]
    assert len(SetName("bi_trajectory", 20).again(**asked)) == 3


def test_ceilings_are_named_after_what_they_are_of():
    names = ceilings([2, 20])
    assert list(map(str, names)) == ["full-ceiling", "full-ceiling-20", "random-ceiling-20"]
    assert [SetName.parse(str(name)) for name in names] == names
    assert [name.is_random for name in names] == [False, False, True]


def test_full_data_have_no_size():
    assert SetName.parse(FULL) == SetName(FULL) and str(SetName(FULL)) == FULL


@pytest.mark.parametrize(
    "text", ["", "random", "random-", "-20", "random-x", "random-2.5", "-decoded-20"]
)
def test_other_texts_are_refused_with_the_form(text):
    with pytest.raises(ValueError, match=r"allowed is `full` or `<method>-<num_pairs>`"):
        SetName.parse(text)


def test_every_profile_says_the_name_of_its_dataset():
    names = [
        params.load([f"profile={profile}"]).report.dataset
        for profile in ("toy", "flickr8k", "flickr8k_small", "flickr8k_full", "flickr30k", "coco")
    ]
    assert names == ["toy", "flickr8k", "flickr8k", "flickr8k", "flickr30k", "coco"]
