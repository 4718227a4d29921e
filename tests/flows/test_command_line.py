"""The console command: help, completion, typos and wrong usage."""

import importlib
import re
import subprocess
import sys
import tomllib

import pytest

from flows import cli, command_line
from tasks.stages import STAGES
from tests.workspace import ROOT, environment

FLOWS = (*STAGES, "pipeline", "distill_sweep", "preset", "study")
COMMANDS = (*FLOWS, "plan", "pretrain", "export", "import", "score", "demo", "ui")
HEAVY = ("torch", "prefect", "mlflow", "pandas", "timm", "transformers")


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
    """Return the one message of a process with wrong words."""
    assert done.returncode == 2
    return the_error(done.stdout, done.stderr)


def the_error(output, errors):
    """Return the one line that was printed, on the stream of errors."""
    (line,) = errors.splitlines()
    assert line.startswith("error: ") and output == ""
    return line


def ended(words):
    """Return the exit code of the command line, called as a function."""
    with pytest.raises(SystemExit) as end:
        cli.console(words)
    return end.value.code


def test_the_project_installs_the_command():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts[command_line.PROGRAM].partition(":")
    assert getattr(importlib.import_module(module), name) is cli.console


@pytest.mark.parametrize("words", [("--help",), ("plan", "--help")])
def test_help_imports_nothing_heavy(words):
    done = run(*words, options=["-X", "importtime"])
    assert done.returncode == 0 and "Usage: vl-distillery" in done.stdout
    imported = set(re.findall(r"\| +([\w.]+)$", done.stderr, re.M))
    assert "typer" in imported and imported.isdisjoint(HEAVY)


def test_help_lists_every_command(capsys):
    assert ended(["--help"]) == 0
    text = capsys.readouterr().out
    assert [name for name in COMMANDS if not re.search(rf"^  {name} ", text, re.M)] == []
    assert text.isascii()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_says_what_it_does_with_an_example(name, capsys):
    assert ended([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    assert f"Usage: vl-distillery {name}" in text and f"\n  vl-distillery {name}" in text
    groups = re.findall(r"^(\w.*):$", text, re.M)
    if name in FLOWS:
        assert {"Values", "What is made again"} <= set(groups)
        assert all(option in text for option in ("--profile", "--set", "--force", "--accept-code"))


def test_what_help_and_pages_show_may_be_pasted_into_a_shell():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    texts = [ROOT / "flows/command_line.py", *pages]
    for line in "\n".join(path.read_text() for path in texts).splitlines():
        assert not re.search(r"(?<!')(--set|-S) [\w.]+=[^'\s]*[][{}*#~]", line), line


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
def test_wrong_usage_is_one_message_with_the_nearest_name(words, parts, capsys):
    assert ended(words) == 2
    line = the_error(*capsys.readouterr())
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
    assert part in refused(workspace.flow(*words, check=False))
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
            "workers": 1,
            "name": None,
            "pool": None,
            "num_gpus": None,
        },
    )
    assert command_line.parse(["plan"]) == ("plan", {"settings": [], "is_json": False})


@pytest.mark.parametrize(
    ("pool", "expected"), [([], True), (["ray"], True), (["cpu"], False), (["gpu"], False)]
)
def test_a_sweep_needs_the_server_where_its_units_are_runs_of_it(pool, expected):
    _, words = command_line.parse(["distill-sweep", "--pool", *pool] if pool else ["pipeline"])
    assert cli.is_outlived(words) is expected


def test_a_module_of_its_own_takes_the_same_options():
    for module in ("flows.distill", "flows.plan", "flows.ui"):
        assert "received" in refused(run("--nothing", module=module))


def test_a_wrong_method_is_refused_before_anything_is_looked_up_and_said_once(workspace):
    for name in ("distill", "select_coresets"):
        done = workspace.flow(name, "--method", "nope", check=False)
        assert done.returncode == 2
        assert (done.stdout + done.stderr).count("received 'nope'") == 1
        assert not (workspace.folder / "data").exists()


def test_a_mistake_that_a_stage_finds_is_said_once(workspace):
    done = workspace.flow("pipeline", "--set", "budgets=[4, 4000]", check=False)
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
