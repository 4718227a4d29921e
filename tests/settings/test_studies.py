"""Studies of presets.yaml: their heads and folders, and what is refused."""

from __future__ import annotations

import shutil

import pytest
import yaml

from tasks.settings import params, studies
from tasks.settings.sets import SetName
from tasks.settings.studies import Head
from tests.workspace import ROOT, SETTINGS

PROFILES = ("toy", "flickr8k")


def of(profile, *settings):
    return params.load([f"profile={profile}", *settings])


@pytest.fixture
def copied(tmp_path):
    """A copy of params.yaml with presets.yaml beside it."""
    for name in SETTINGS:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path / "params.yaml"


def change(copied, change_held):
    place = copied.with_name("presets.yaml")
    held = yaml.safe_load(place.read_text())
    change_held(held["studies"])
    place.write_text(yaml.safe_dump(held))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", list(studies.SECTIONS))
def test_every_study_has_values_for_the_profiles_of_two_cores(name, profile):
    study = studies.load(name, of(profile))
    assert isinstance(study.section, studies.SECTIONS[name])
    assert study.title == studies.titles()[name]


def test_the_search_on_flickr8k_has_48_heads_and_the_levels_are_four():
    search = studies.load(studies.SEARCH, of("flickr8k")).section
    lists = (search.embed_dim, search.hidden_layers, search.lr, search.tau)
    num_heads = 1
    for values in lists:
        num_heads *= len(values)
    assert num_heads == 48
    for profile in PROFILES:
        assert len(studies.load(studies.COMPUTE, of(profile)).section.gigaflops) == 4


def test_a_head_changes_the_student_alone():
    chosen = params.load(["profile=flickr8k"])
    study, head = studies.load(studies.SEARCH, of("flickr8k")), Head(64, 2, 0.03, 0.05)
    work = studies.evaluation(
        chosen, study, SetName("random", 100), head, chosen.evaluate.small, "level"
    )
    place = "data/scores/flickr8k+architecture_search/random-100/w64-h2-lr0.03-tau0.05/level"
    assert work.folder.as_posix() == place
    assert (work.network.model.embed_dim, work.network.model.tau) == (64, 0.05)
    assert work.network.hidden_layers == 2 and work.network.is_further
    assert work.network.model.dropout == chosen.model.dropout
    assert work.section.full == work.section.small == chosen.evaluate.small
    assert work.section.protocol == "strict"


def test_a_profile_that_trains_its_encoder_gets_features_of_its_own():
    chosen = params.load()
    work = studies.start(chosen, studies.load(studies.SEARCH, of("toy")))
    place = "data/scores/toy+architecture_search/start/test_nfnet"
    assert chosen.model.trainable == "full" and work.folder.as_posix() == place
    assert work.network.model.is_encoder_frozen


@pytest.mark.parametrize(
    ("name", "profile", "message"),
    [
        ("fixed_computer", "toy", r"unknown study .*did you mean 'fixed_compute'\?.*available: "),
        ("fixed_compute", "coco", r"received the profile 'coco'; allowed .*: toy, flickr8k; add"),
    ],
)
def test_an_unknown_study_or_profile_is_refused(name, profile, message):
    with pytest.raises(ValueError, match=message):
        studies.load(name, of(profile))


def test_a_profile_that_distils_nothing_is_refused():
    with pytest.raises(ValueError, match=r"methods\.distillers: received none; the study"):
        studies.load(studies.SEARCH, of("toy", "methods.distillers=[]"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_students", 1, r"toy\.num_students: received 1.*>= 2"),
        ("lr", [0.1, 0.1], r"toy\.lr: received \[0\.1, 0\.1\]; allowed are different"),
        ("tau", [], r"toy\.tau: received \[\]; allowed are different values, at least one"),
        ("hidden_layers", [-1], r"toy\.hidden_layers.*received -1"),
        ("depth", 3, r"toy.*depth"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(copied, key, value, message):
    def one(held):
        held["architecture_search"]["profiles"]["toy"][key] = value

    change(copied, one)
    with pytest.raises(ValueError, match=message):
        studies.load(studies.SEARCH, of("toy"), copied)


def test_a_study_too_many_or_a_key_too_few_is_refused(copied):
    change(copied, lambda held: held["fixed_compute"].pop("title"))
    with pytest.raises(ValueError, match=r"studies\.fixed_compute: received the keys profiles"):
        studies.load(studies.COMPUTE, of("toy"), copied)
    change(copied, lambda held: held.update(others={}))
    with pytest.raises(ValueError, match=r"studies: received the keys .*others.*allowed"):
        studies.titles(copied)
