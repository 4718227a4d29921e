"""Long work that is not on a terminal says where it is, by processes with pipes for output."""

import os
import pty
import re
import subprocess
import sys
import termios

import pytest

from tests.workspace import ROOT, environment

WORK = """
import logging, time
from tasks.progress import reporter
logging.basicConfig(level=logging.INFO, format="%(message)s")
{body}
"""
EVALUATE = """
import functools
from flows import cli
from tasks import distill, embed_captions, prepare_data, progress, select_coresets
from tasks import starts, student_models, train_experts
short = prepare_data, embed_captions, select_coresets
long = starts, student_models, train_experts, distill
for modules, every in ((short, 0.002), (long, 0.03)):
    for module in modules:
        module.reporter = functools.partial(progress.reporter, every=every)
cli.main("evaluate", {settings!r})
"""


def run(body):
    done = subprocess.run(
        [sys.executable, "-c", WORK.format(body=body)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr.splitlines()


def test_a_line_says_stage_done_of_total_loss_and_time_left():
    lines = run("""
report = reporter("distill lors-20", every=0.2)
for step in range(4):
    time.sleep(0.3)
    report(step + 1, 4, loss=0.5 / (step + 1))
""")
    assert lines[0] == "distill lors-20: begun"
    assert "distill lors-20: 1 of 4, loss 0.5, 1 s left" in lines
    assert 4 <= len(lines) <= 6


def test_lines_come_while_one_call_of_core_takes_long():
    lines = run("""
report = reporter("train_experts expert 0", every=0.1)
report(1, 2, loss=1.0)
time.sleep(0.65)
report(2, 2, loss=1.0)
time.sleep(0.3)
""")
    assert 4 <= len(lines) <= 7 and len(set(lines)) == 1


def test_short_work_writes_no_line():
    assert run('reporter("prepare_data toy", every=5.0)(1, 2)') == []


def test_lines_end_with_the_last_call_and_with_failed_work():
    lines = run("""
def fail():
    report = reporter("failed", every=0.05)
    report(1, 3)
    raise ValueError
done = reporter("done", every=0.05)
done(3, 3)
try:
    fail()
except ValueError:
    pass
time.sleep(0.4)
""")
    assert len(lines) <= 1


def test_resumed_work_is_not_taken_for_fast():
    lines = run("""
report = reporter("resumed", every=0.1)
report(50, 100)
time.sleep(0.25)
report(51, 100)
time.sleep(0.25)
""")
    assert "resumed: 50 of 100" in lines
    left = re.fullmatch(r"resumed: 51 of 100, (\d+) s left", lines[-1])
    assert left and 12 <= int(left[1]) <= 20


def test_on_a_terminal_there_is_a_bar_and_no_line():
    shown, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    body = """
report = reporter("distill lors-20", every=0.05)
for step in range(4):
    time.sleep(0.25)
    report(step + 1, 4)
"""
    subprocess.run(
        [sys.executable, "-c", WORK.format(body=body)],
        cwd=ROOT,
        env=environment(),
        stderr=terminal,
        timeout=60,
        check=True,
    )
    text = os.read(shown, 100_000).decode()
    os.close(terminal)
    os.close(shown)
    assert "%" in text and "begun" not in text and " left" not in text


@pytest.mark.services
def test_every_long_stage_says_where_it_is(workspace):
    settings = (
        "methods.coresets=[random, forgetting]",
        "select_coresets.options.forgetting.num_epochs=8",
        "train_experts.num_epochs=8",
        "train_experts.num_experts=1",
        "distill.matching.iterations=8",
        "evaluate.small.num_epochs=20",
        "evaluate.small.num_validations=20",
    )
    options = [word for setting in settings for word in ("--set", setting)]
    script = EVALUATE.format(settings=options)
    done = workspace.program(script, seconds=300)
    for line in (
        r"prepare_data toy: \d+ of 72, \d+ s left",
        r"embed_captions by ",
        r"train_experts expert 0: [1-7] of 8, loss [\d.]+, \d+ s left",
        r"select_coresets forgetting, training: [1-7] of 8, \d+ s left",
        r"select_coresets forgetting-4: ",
        r"distill bi_trajectory-4: [1-7] of 8, loss [\d.]+, \d+ s left",
        r"evaluate bi_trajectory-4 seed 0: 1?\d of 20, loss [\d.]+, val_mean_recall [\d.]+, \d+ s",
    ):
        assert re.search(line, done.stdout + done.stderr), line
