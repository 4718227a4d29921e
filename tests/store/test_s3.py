"""A store that speaks S3, on a free port of this machine."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.store.checkouts import CONTENT, FOLDER, Checkout, build, never
from tests.workspace import Workspace, make_workspace

pytestmark = pytest.mark.services
URL = "s3://lab/artifacts"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def access(endpoint, monkeypatch) -> dict[str, str]:
    """The environment of a worker that may use the store, where a bucket is empty."""
    names = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing-key-id",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    bucket = boto3.resource("s3").Bucket("lab")
    bucket.create()
    bucket.objects.all().delete()
    return names


def test_what_one_worker_made_another_uses(access, tmp_path):
    # More than one part of an upload
    large = {"images.bin": bytes(range(251)) * 90_001, "rows.json": b"[]"}
    Checkout(tmp_path / "first", URL).obtain(lambda work: build(work, large))
    second = Checkout(tmp_path / "second", URL)
    assert second.obtain(never).is_cached and second.files() == large
    names = [entry.key for entry in boto3.resource("s3").Bucket("lab").objects.all()]
    assert len(names) == 3 and all(name.startswith("artifacts/prepare_data/") for name in names)


def test_a_flipped_byte_and_a_cut_object_are_made_again_and_replaced(access, tmp_path):
    first = Checkout(tmp_path / "first", URL)
    first.obtain(build)
    bucket = boto3.resource("s3").Bucket("lab")
    (largest,) = sorted(bucket.objects.all(), key=lambda entry: entry.size)[-1:]
    data = largest.get()["Body"].read()
    for number, damaged in enumerate((bytes([data[0] ^ 1]) + data[1:], data[:-1])):
        bucket.put_object(Key=largest.key, Body=damaged)
        assert not Checkout(tmp_path / f"second {number}", URL).obtain(build).is_cached
        third = Checkout(tmp_path / f"third {number}", URL)
        assert third.obtain(never).is_cached and third.files() == CONTENT


def test_a_bucket_that_is_not_there_is_not_made_and_stops_nothing(access, tmp_path):
    first = Checkout(tmp_path / "first", "s3://lob/artifacts")
    first.obtain(build)
    assert first.files() == CONTENT
    assert [bucket.name for bucket in boto3.resource("s3").buckets.all()] == ["lab"]


def test_an_endpoint_that_takes_calls_and_never_answers_is_left(access, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        first = Checkout(tmp_path / "first", "s3://silent/artifacts", seconds=2)
        started = time.monotonic()
        first.obtain(build)
    assert time.monotonic() - started < 20
    assert (first.folder / FOLDER / "manifest.json").exists()


@pytest.fixture
def worker(tmp_path, access):
    """Returns what makes a checkout in a folder of its own."""

    def make(name: str) -> Workspace:
        return make_workspace(tmp_path / name / "deep" / name)

    return make


def test_a_worker_goes_on_with_what_another_made_in_another_folder(worker, access):
    """Two processes, two checkouts, two folders: the second has no raw work to do."""
    where = {**access, "VL_DISTILLERY_STORE": URL}
    first, second = worker("first"), worker("second")
    done = first.flow("train_experts", **where)
    assert "train_experts: 5 made, 0 cached" in done.stdout
    done = second.flow("select_coresets", **where)
    assert "select_coresets: 2 made, 5 cached" in done.stdout
    assert second.digests().items() >= first.digests().items()
    written = [*first.folder.rglob("manifest.json"), *second.folder.rglob("manifest.json")]
    assert not [path for path in written if access["AWS_SECRET_ACCESS_KEY"] in path.read_text()]
    assert access["AWS_SECRET_ACCESS_KEY"] not in done.stdout + done.stderr
