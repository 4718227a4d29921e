"""`store` is a place: checked before a run, and in no key and no digest."""

import pytest

from flows import runner
from tasks.settings import params
from tasks.settings.stores import check_store, store_of
from tests.workspace import ROOT

PARAMS = ROOT / "params.yaml"


@pytest.fixture
def in_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv(runner.STORE, raising=False)


def test_no_store_is_the_default_and_an_override_names_one():
    assert store_of([], PARAMS) is None
    assert store_of(["profile=toy", "store=s3://lab/a"], PARAMS) == "s3://lab/a"
    assert store_of(["store=s3://lab/a", "store=null"], PARAMS) is None


def test_no_digest_depends_on_it():
    plain, named = params.load([], path=PARAMS), params.load(["store=s3://lab/a"], path=PARAMS)
    assert plain == named and plain.digest == named.digest


@pytest.mark.parametrize("value", ["s4://lab/a", 7, [], "", True, "ftp://karla:geheim7@host/store"])
def test_what_is_no_address_or_holds_a_user_is_refused_without_secrets(value):
    with pytest.raises(ValueError, match="store: received") as refused:
        check_store(value, "params.yaml")
    assert "geheim7" not in str(refused.value) and "karla" not in str(refused.value)


def test_a_wrong_store_is_refused_before_anything_is_read():
    with pytest.raises(ValueError, match="allowed are"):
        params.load(["store=s4://lab/a"], path=PARAMS)


def test_the_environment_overrides_the_file_and_may_hold_a_user(in_root, monkeypatch):
    assert runner._remote(["store=s3://lab/a"]).shown == "s3://lab/a"
    monkeypatch.setenv(runner.STORE, "ftp://karla:geheim7@host/store")
    assert runner._remote(["store=s3://lab/a"]).shown == "ftp://host/store"
    monkeypatch.setenv(runner.STORE, "")
    assert runner._remote(["store=s3://lab/a"]) is None
    monkeypatch.setenv(runner.STORE, "s4://lab/a")
    with pytest.raises(ValueError, match=runner.STORE):
        runner._remote([])
