"""What commands say of mistyped choices, of targets that cannot be made, and after Ctrl-C."""

import signal
import subprocess
import sys
import time

import pytest

from tests.flows.test_command_line import refused
from tests.workspace import ROOT, environment

INTERRUPTED = """
import os, signal, sys
from flows import cli
def stopped(): os.kill(os.getpid(), signal.SIGINT); signal.pause()
cli.guarded(stopped, **({"interrupted": cli.BEGINS_AGAIN} if sys.argv[1:] else {}))
"""


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("export", "x-4", "--to", "out", "--format", "foldr"), "(did you mean 'folder'?)"),
        (("export", "x-4", "--to", "out", "--pictures", "pgn"), "(did you mean 'png'?)"),
        (("distill_sweep", "--profile", "toi"), "(did you mean 'toy'?)"),
        (("distill_sweep", "--pool", "gpuu"), "(did you mean 'gpu'?)"),
        (("distill_sweep", "--set", "sweep={gird: {}}"), "(did you mean 'grid'?)"),
        (("study", "fixed_compute", "--profile", "flickr8"), "(did you mean 'flickr8k'?)"),
    ],
)
def test_a_mistyped_choice_is_answered_with_the_one_that_was_meant(words, part, workspace):
    assert part in refused(workspace.flow(*words, check=False))


def test_ctrl_c_says_what_the_same_command_does():
    for words, said in ((["again"], "begins again"), ([], "goes on from the last checkpoint")):
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, *words],
            env={**environment(), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 130 and done.stderr.endswith(f"{said}\n")


def test_a_plan_that_is_interrupted_speaks_of_no_checkpoint(workspace):
    measured = workspace.folder / "measured"
    measured.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "plan"],
        cwd=workspace.folder,
        env={**environment(), "TMPDIR": str(measured)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(measured.glob("vl-distillery-plan-*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and "checkpoint" not in errors
    assert errors.endswith("interrupted; nothing was made, and the same command begins again\n")
