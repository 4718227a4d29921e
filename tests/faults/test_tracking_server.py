"""A server of MLflow that is off, silent, stopped or killed: runs go on, and what it should have
heard is told later, each unit once.
"""

import random
import signal
import socket
import time

import pytest

from tests.faults.rounds import rounds
from tests.faults.tracked import WITHOUT, Folder, check, free_port, server

pytestmark = pytest.mark.services

SOME_SECONDS = 20.0  # one request that is not answered, on a busy machine
USER = "me:geh%40im@"


def _as_user(uri):
    return uri.replace("//", f"//{USER}")


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """A server whose database is made."""
    with server(tmp_path_factory.mktemp("server")) as found:
        found.start()
        yield found


@pytest.fixture
def mlflow(running):
    """A server that runs and has no units of other tests."""
    if running.process is None:
        running.start()
    running.clear()
    return running


def test_runs_without_a_server_are_told_once_when_it_is_there(tmp_path, mlflow):
    mlflow.signal(signal.SIGKILL)
    proxy = f"http://127.0.0.1:{free_port()}"  # nobody there: loopback goes through no proxy
    folder = Folder(tmp_path / "a", _as_user(mlflow.uri), {"http_proxy": proxy, "ALL_PROXY": proxy})
    seconds, said = folder.run(1, 3)
    assert seconds < SOME_SECONDS / 4 and said.count(WITHOUT) == 1
    assert "Connection refused" in said and str(folder.spool) in said
    assert len(folder.waiting) == 3
    secrets = ("geh%40im", "geh@im")
    for path in (tmp_path / "a").rglob("*"):
        assert not path.is_file() or not any(secret in path.read_text() for secret in secrets)
    mlflow.start()
    _, told = folder.run(2, 1)
    assert "told MLflow of 3 logged units" in told and WITHOUT not in told
    assert not any(secret in said + told for secret in secrets)
    assert folder.waiting == [] and folder.run(1, 3)[1] == ""
    check(mlflow.uri, {1: 3, 2: 1})


def test_a_server_that_accepts_and_never_answers_costs_a_run_some_seconds_in_all(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        folder = Folder(tmp_path / "a", f"http://127.0.0.1:{silent.getsockname()[1]}")
        seconds, said = folder.run(1, 4)
    assert seconds < SOME_SECONDS and said.count(WITHOUT) == 1 and "timed out" in said
    assert len(folder.waiting) == 4


def test_a_users_own_limit_of_a_request_is_kept(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        own = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
        folder = Folder(tmp_path / "a", f"http://127.0.0.1:{silent.getsockname()[1]}", own)
        seconds, said = folder.run(1, 2)
    assert 1 <= seconds < SOME_SECONDS / 4 and "timed out" in said


def test_a_server_that_stops_for_a_while_or_is_killed_hears_each_unit_once(tmp_path, mlflow):
    draw, runs = random.Random(0), {}
    folder = Folder(tmp_path / "a", mlflow.uri, {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3"})
    for number in range(1, 2 * rounds(1) + 1):
        process = folder.start(number, 3)
        time.sleep(draw.random() * 3)
        is_killed = number % 2
        mlflow.signal(signal.SIGKILL if is_killed else signal.SIGSTOP)
        process.end()
        mlflow.start() if is_killed else mlflow.signal(signal.SIGCONT)
        runs[number] = 3
    folder.env.clear()
    folder.run(number + 1, 1)
    assert folder.waiting == []
    check(mlflow.uri, {**runs, number + 1: 1})


def test_runs_that_are_killed_while_they_tell_lose_nothing_and_tell_nothing_twice(tmp_path, mlflow):
    draw, folder = random.Random(1), Folder(tmp_path / "a", mlflow.uri)
    mlflow.signal(signal.SIGSTOP)
    folder.env = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}
    folder.run(1, 4)
    mlflow.signal(signal.SIGCONT)
    folder.env = {}
    for _ in range(rounds(4)):
        folder.start(2, 1).kill_after(draw.random() * 3)
    both = [folder.start(number, 2) for number in (3, 4)]
    for process in both:
        process.end()
    folder.run(2, 1)
    assert folder.waiting == []
    check(mlflow.uri, {1: 4, 2: 1, 3: 2, 4: 2})
