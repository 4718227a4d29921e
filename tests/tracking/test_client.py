"""What is secret in the address of MLflow reaches no message and no name."""

import pytest

from tasks.tracking import client


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://me:geheim@host:5000/mlflow", "http://host:5000/mlflow"),
        ("postgresql://me:geh@im@host/db?password=geheim", "postgresql://host/db"),
        ("http://user:s3cr3t?pw@127.0.0.1:9", "http://127.0.0.1:9"),
        ("http://user:s3c/r3t#p?w@127.0.0.1:9/mlflow?key=s3cr3t", "http://127.0.0.1:9/mlflow"),
        ("http://host:5000", "http://host:5000"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_secrets(monkeypatch, uri, address):
    monkeypatch.setenv(client.URI, uri)
    assert client.address() == address


def test_a_reason_is_the_bottom_of_an_error_without_secrets(monkeypatch):
    monkeypatch.setenv(client.URI, "http://me:geh%40im@host:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "token-1")
    text = "no http://me:geh%40im@host:5000 for token-1, geh@im, me in time\nand more"
    error = RuntimeError("API request to http://me:geh%40im@host:5000 failed")
    error.__context__ = ConnectionError(text)
    assert client.reason(error) == "no http://host:5000 for ***, ***, me in time"
    assert client.reason(ConnectionError()) == "ConnectionError"


@pytest.mark.parametrize("password", ["s3cr3t?pw", "pw/s3cr3t", "pw#s3cr3t", "s3cr3t@2?pw"])
def test_no_part_of_a_password_that_breaks_an_address_is_in_what_mlflow_answers(
    monkeypatch, password
):
    monkeypatch.setenv(client.URI, f"http://user:{password}@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Exception) as found:
        client.Tracker("toy")
    text = client.reason(found.value)
    assert text and "s3cr3t" not in text and "pw" not in text
    assert client.reason(ValueError("no port 's3cr3t'")) == "no port '***'"


def test_the_server_of_a_spool_is_the_same_for_every_user_of_it(monkeypatch):
    monkeypatch.delenv(client.URI, raising=False)
    assert client.server() == "local"
    names = set()
    for uri in ("http://a:b@host:1", "http://c@host:1", "http://host:2"):
        monkeypatch.setenv(client.URI, uri)
        names.add(client.server())
    assert len(names) == 2
