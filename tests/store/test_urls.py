"""What is secret in an address or in the environment is in no message."""

import pytest

from tasks.store import urls


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/folder", "s3://bucket/folder"),
        ("ftp://karla:geheim7@host:21/store", "ftp://host:21/store"),
        ("ftp://karla:ge/he@im?7@host/store", "ftp://host/store"),
        ("http://host/store?sig=5ec2e7", "http://host/store"),
        ("file:///home/a@b/store", "file:///home/a@b/store"),
        ("/home/a@b/store", "/home/a@b/store"),
        (".cache/store", ".cache/store"),
        ("https://h/a?m=a@b&key=S", "https://b"),
    ],
)
def test_an_address_is_shown_without_user_and_query(url, shown):
    assert urls.shown(url) == shown


def test_a_reason_is_that_at_the_bottom_without_parts_of_the_password():
    try:
        try:
            raise OSError("no port he@im in ftp://karla:ge/he@im@host/store\nmore")
        except OSError as error:
            raise ValueError("above") from error
    except ValueError as error:
        said = urls.reason(error, "ftp://karla:ge/he@im@host/store")
    assert "ftp://host/store" in said and "\n" not in said
    assert not [word for word in ("karla", "he@im", "above") if word in said]


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG", "wJalrXUtnFEMI/K7MDENG"),
        ("LAB_PASSWORD", "pw1", "pw1"),
        ("FSSPEC_S3", '{"key": "AKIAXAMPLE", "secret": "abcdefgh12"}', "abcdefgh12"),
        (
            "AZURE_STORAGE_CONNECTION_STRING",
            "AccountName=lab;AccountKey=Zm9vYmFyCg==",
            "Zm9vYmFyCg",
        ),
    ],
)
def test_credentials_of_the_environment_are_masked(monkeypatch, name, value, secret):
    monkeypatch.setenv(name, value)
    assert secret not in urls.reason(OSError(f"refused {secret} there"), "s3://bucket")
    assert "there" in urls.reason(OSError(f"refused {secret} there"), "s3://bucket")
