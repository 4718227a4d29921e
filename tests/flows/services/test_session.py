"""A session's owner is told by what does not move: not by a time of day, which changes when the
clock is set.
"""

from __future__ import annotations

import os
import re
import socketserver
import subprocess
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest

from flows import ui
from flows.services import session
from flows.services.session import Owner
from tests.workspace import ROOT, environment


def test_an_owner_stays_alive_when_the_clock_is_set(monkeypatch):
    me = Owner.of(os.getpid())
    real = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: real(process) + 3600.0)
    assert me.is_alive
    assert Owner.of(os.getpid()) == me


def test_an_owner_ends_with_its_process_even_as_a_zombie():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = Owner.of(child.pid)
    assert owner.is_alive
    child.kill()
    limit = time.monotonic() + 5
    while owner.is_alive and time.monotonic() < limit:  # nobody has waited for it yet
        time.sleep(0.01)
    assert not owner.is_alive
    child.wait()
    assert not owner.is_alive


def test_another_process_with_the_same_id_is_not_the_owner():
    me = Owner.of(os.getpid())
    assert not Owner(me.pid, "1_00000000").is_alive


def test_there_is_no_owner_without_a_process():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(psutil.NoSuchProcess):
        Owner.of(child.pid)


def test_no_proxy_stands_between_us_and_this_machine(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert session.answers(f"http://127.0.0.1:{server.server_port}/nothing")
        server.shutdown()
    session.switch_offline()
    assert os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"
    assert os.environ["no_proxy"] == "127.0.0.1,localhost,::1"


def test_a_server_that_refuses_is_told_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    started = time.monotonic()
    message = r"no Prefect server answers at http://127.0.0.1:9"
    with pytest.raises(ConnectionError, match=message), session.connected():
        pass
    assert time.monotonic() - started < 10


@pytest.mark.services
def test_a_server_that_cannot_start_says_why(tmp_path):
    """One of its libraries is broken: the message ends with what Python said, not with a minute of
    waiting.
    """
    (tmp_path / "uvicorn.py").write_text("raise ImportError('greenlet is not installed')\n")
    env = {**environment(), "PYTHONPATH": str(tmp_path), "PREFECT_HOME": str(tmp_path / "home")}
    command = [
        sys.executable,
        "-m",
        "flows.ui",
    ]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 1 and time.monotonic() - started < 60
    assert re.search(
        r"no server answers at .*its last words were: ImportError: greenlet is not installed;",
        done.stderr,
    )
    assert str(tmp_path / "home" / "sessions") in done.stderr


@pytest.mark.parametrize(("words", "message"), [((), "cannot be served"), ("same", "both servers")])
def test_a_port_of_another_program_is_not_announced_as_ours(words, message, tmp_path):
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as other:
        port = str(other.server_address[1])
        ports = ["--prefect-port", port, *(["--mlflow-port", port] if words else [])]
        done = subprocess.run(
            [sys.executable, "-m", "flows.ui", *ports],
            cwd=ROOT,
            env={**environment(), "PREFECT_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1 and done.stdout == ""
    assert re.search(rf"error: .*{message}.*{port}|error: port {port} .*{message}", done.stderr)
    assert "--prefect-port" in done.stderr


def test_a_folder_in_which_mlflow_opens_no_database_is_refused_before_any_server(
    tmp_path, monkeypatch
):
    folder = tmp_path / "a%20b"
    folder.mkdir()
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit, match=r"error: rename the folder, .*hex digits, got .*a%20b"):
        ui.main(0, 1)
    assert list(folder.iterdir()) == []
