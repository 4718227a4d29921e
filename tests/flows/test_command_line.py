"""The console command: help, completion, typos and wrong usage, by real processes."""

import importlib
import re
import subprocess
import sys
import tomllib

import pytest

from flows import cli, command_line
from tests.workspace import ROOT, environment

FLOWS = (
    "prepare_data",
    "embed_captions",
    "train_experts",
    "select_coresets",
    "distill",
    "evaluate",
    "report",
    "pipeline",
    "distill_sweep",
    "preset",
)
COMMANDS = (*FLOWS, "plan", "export", "import", "score", "demo", "ui")
HEAVY = ("torch", "prefect", "mlflow", "pandas", "timm")


def run(*words, module="flows.cli", options=(), folder=ROOT, **env):
    return subprocess.run(
        [sys.executable, *options, "-m", module, *words],
        cwd=folder,
        env={**environment(), "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refused(done):
    """Return the one message of wrong usage."""
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_the_project_installs_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts[command_line.PROGRAM].partition(":")
    assert getattr(importlib.import_module(module), name) is cli.console


def test_help_lists_every_command_and_imports_nothing_heavy():
    done = run("--help", options=["-X", "importtime"])
    assert done.returncode == 0
    assert [name for name in COMMANDS if not re.search(rf"^  {name} ", done.stdout, re.M)] == []
    assert done.stdout.isascii()
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.M))
    assert "typer" in imported and imported.isdisjoint(HEAVY)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_says_what_it_does_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(name, ["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0 and text.isascii()
    assert f"Usage: vl-distillery {name}" in text and f"\n  vl-distillery {name}" in text
    groups = re.findall(r"^(\w.*):$", text, re.M)
    if name in FLOWS:
        assert {"Values", "What is made again"} <= set(groups)
        assert all(option in text for option in ("--profile", "--set", "--force", "--accept-code"))


def test_no_command_is_the_help_and_code_2():
    done = run()
    assert done.returncode == 2 and "Usage: vl-distillery" in done.stdout


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("distil",), ["'distil'", "Did you mean 'distill'"]),
        (("xyz",), ["'xyz'", "`vl-distillery --help`"]),
        (("distill", "--metod", "lors"), ["--metod", "--method", "distill --help"]),
        (("prepare-data", "--frce"), ["--frce", "--force"]),
        (("prepare_data", "--method", "lors"), ["--method"]),
        (("distill", "--meth", "lors"), ["No such option", "--method"]),
        (("distill", "--method"), ["'--method' requires an argument"]),
        (("distill_sweep", "--num-pairs", "many"), ["--num-pairs", "many"]),
        (("pipeline", "again"), ["again"]),
        (("preset",), ["a table is missing", "single_modality"]),
        (("ui", "--mlflow-port", "x\x1b[2J"), ["--mlflow-port", r"\x1b"]),
    ],
)
def test_wrong_usage_is_one_message_with_the_nearest_name(words, parts):
    line = refused(run(*words))
    assert [part for part in parts if part not in line] == []
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("pipeline", "--profile", "toi"), "unknown profile 'toi' (did you mean 'toy'?)"),
        (("pipeline", "--profile", "../../x"), "unknown profile '../../x'"),
        (("preset", "single_modalty"), "(did you mean 'single_modality'?)"),
        (("pipeline", "--set", "methods.distillers=[lor]"), "(did you mean 'lors'?)"),
        (("pipeline", "--set", "seed"), "--set takes section.key=value, received 'seed'"),
        (("pipeline", "--set", "budgets=[*.tar]"), "--set 'budgets=[*.tar]'"),
        (("plan", "--profile", "toi"), "(did you mean 'toy'?)"),
    ],
)
def test_a_wrong_name_or_value_is_one_message_and_nothing_is_written(words, part, workspace):
    assert part in refused(run(*words, folder=workspace.folder))
    assert not (workspace.folder / "data").exists()


def test_every_spelling_reads_the_same_words():
    given = ["--profile", "coco", "--set", "seed=1", "--set", "seed=2", "--num-pairs", "4"]
    name, words = command_line.parse(["distill-sweep", *given, "--method", "lors", "--force"])
    assert (name, words) == (
        "distill_sweep",
        {
            "settings": ["profile=coco", "seed=1", "seed=2"],
            "force": True,
            "accept_code": False,
            "methods": ["lors"],
            "budgets": [4],
        },
    )
    assert command_line.parse(["plan"]) == ("plan", {"settings": [], "is_json": False})


def test_a_module_of_its_own_takes_the_same_options():
    for module in ("flows.distill", "flows.plan", "flows.ui"):
        assert "received" in refused(run("--nothing", module=module))


def test_a_wrong_method_is_refused_before_anything_is_looked_up_and_said_once(workspace):
    for name in ("distill", "select_coresets"):
        done = run(name, "--method", "nope", folder=workspace.folder)
        assert done.returncode == 2
        assert (done.stdout + done.stderr).count("received 'nope'") == 1
        assert not (workspace.folder / "data").exists()


def test_a_mistake_that_a_stage_finds_is_said_once(workspace):
    done = run("pipeline", "--set", "budgets=[4, 4000]", folder=workspace.folder)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (done.stdout + done.stderr).count("received 4000 pairs") == 1


def complete(*words):
    line = " ".join(("vl-distillery", *words))
    env = {"COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    return run(_VL_DISTILLERY_COMPLETE="complete_bash", **env).stdout.split()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (("dis",), ["distill", "distill_sweep"]),
        (("distill", "--pro"), ["--profile"]),
        (("distill", "--profile", "flickr3"), ["flickr30k"]),
        (("preset", "single"), ["single_modality"]),
        (("distill", "--method", "bi"), ["bi_trajectory"]),
        (("select_coresets", "--method", "her"), ["herding"]),
    ],
)
def test_the_shell_completes_commands_options_and_names(words, found):
    assert complete(*words) == found


def test_completion_is_silent_where_there_are_no_parameters(tmp_path):
    env = {"COMP_WORDS": "vl-distillery distill --profile x", "COMP_CWORD": "3"}
    done = run(folder=tmp_path, _VL_DISTILLERY_COMPLETE="complete_bash", **env)
    assert (done.stdout.strip(), done.stderr) == ("", "")
