"""A sweep over a store that has a damaged artifact, answers errors for a while, or takes requests
and never answers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from tests.faults import sweeps
from tests.faults.sweeps import END_SECONDS, end, num_done, start, wait_for, wait_for_cells
from tests.workspace import Workspace, make_workspace

pytestmark = pytest.mark.services
BUCKET = "lab"
WITHOUT = "going on without the store s3://lab/artifacts"


class Store:
    """A store that speaks S3 and can be disturbed.

    Attributes:
        disturb: answers in its place, when it is not None.
    """

    def __init__(self) -> None:
        self.app = DomainDispatcherApplication(create_backend_app)
        self.disturb: Callable[..., list[bytes]] | None = None
        self.has_ended = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        answer = self.disturb or self.app
        return answer(environ, start_response)

    def refuse(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("503 Slow Down", [])
        return [b""]

    def hang(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.has_ended.wait(END_SECONDS)
        return self.refuse(environ, start_response)

    @property
    def bucket(self) -> Any:
        return boto3.resource("s3").Bucket(BUCKET)

    def objects(self) -> dict[str, bytes]:
        """Return what it has."""
        return {entry.key: entry.get()["Body"].read() for entry in self.bucket.objects.all()}


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A store with an empty bucket, named to programs by the environment."""
    found = Store()
    server = make_server("127.0.0.1", 0, found, True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing-key-id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("VL_DISTILLERY_STORE", f"s3://{BUCKET}/artifacts")
        found.bucket.create()
        yield found
    found.has_ended.set()
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def sent(made, store) -> dict[str, bytes]:
    """What the store has when a sweep has run that was made before there was a store."""
    done = made.flow("distill_sweep", "--name", "sent", seconds=END_SECONDS)
    assert "distill_sweep: 0 made" in done.stdout
    found: dict[str, bytes] = store.objects()
    assert sum(name.endswith("manifest.json") for name in found) == len(made.digests())
    return found


def log(workspace: Workspace, name: str) -> str:
    """Return what the worker of a sweep wrote."""
    return (workspace.folder / f"data/sweeps/toy/{name}/worker_0.log").read_text()


def test_damaged_artifacts_are_named_made_again_and_replaced(made, store, sent, tmp_path):
    for stage in ("train_experts", "distill"):
        name = max(
            (name for name in sent if f"/{stage}/" in name), key=lambda name: len(sent[name])
        )
        damaged = bytes([sent[name][0] ^ 1]) + sent[name][1:]
        store.bucket.put_object(Key=name, Body=damaged)
    workspace = make_workspace(tmp_path / "copy", sweeps.SETTINGS)
    output = end(start(workspace, "--name", "damaged"))
    assert "distill_sweep: 2 made" in output and workspace.digests() == made.digests()
    assert log(workspace, "damaged").count("the store has a damaged artifact") == 2
    assert sweeps.half_written(workspace) == []
    again = store.objects()
    assert {name for name in sent if again[name] != sent[name]} <= {
        name for name in sent if name.endswith("manifest.json")
    }


@pytest.mark.parametrize("fault", ["refuse", "hang"])
def test_no_cell_stops_with_the_store_and_the_same_command_sends_what_it_lacks(
    made, shared_alone, store, sent, fault
):
    of_cells = {name for name in sent if "/distill/" in name or "/evaluate/" in name}
    for name in of_cells:
        store.bucket.Object(name).delete()
    sweep = start(shared_alone, "--name", fault)
    wait_for_cells(shared_alone, sweep)
    try:
        store.disturb = getattr(store, fault)
        wait_for(lambda: num_done(shared_alone, fault) or sweep.poll() is not None, "no cell", 300)
    finally:
        store.disturb = None
    output = end(sweep)
    assert "2 of 2: bi_trajectory-4" in output and shared_alone.digests() == made.digests()
    assert log(shared_alone, fault).count(WITHOUT) == 1
    done = shared_alone.flow("distill_sweep", "--name", fault, seconds=END_SECONDS)
    assert "distill_sweep: 0 made" in done.stdout
    assert store.objects().keys() == sent.keys()
