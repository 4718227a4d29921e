"""What the command line takes: commands, options, help, completion, and answers to typos.

`parse` returns a command with its words, and flows/cli.py runs it. This file imports neither
PyTorch nor Prefect, so that help and completion come at once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from tasks.settings import files

PROGRAM = "vl-distillery"
STAGES, WHOLE, BESIDE = "Stages, in order", "Whole runs", "Before and beside a run"
# What a user gives to choose values, and what is made again
VALUES, AGAIN, CHOICE = "Values", "What is made again", "What to run"


class _Command(TyperCommand):
    """A command with its options in groups, in plain text on every terminal."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write each group of options under its title."""
        _write_groups(
            formatter,
            [
                (getattr(param, "rich_help_panel", None) or "Other", record)
                for param in self.get_params(ctx)
                if (record := param.get_help_record(ctx))
            ],
        )


class _Group(TyperGroup):
    """All commands; `prepare-data` is the same as `prepare_data`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by its name, with hyphens or underscores."""
        return super().get_command(ctx, cmd_name.replace("-", "_"))

    def invoke(self, ctx: Any) -> tuple[str, dict[str, Any]]:
        """Return the command's name and its words; nothing runs in here."""
        words = super().invoke(ctx)
        return str(ctx.invoked_subcommand).replace("-", "_"), words

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the first sentence of each command, in groups."""
        found = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        _write_groups(
            formatter,
            [
                (str(command.rich_help_panel), (name, command.get_short_help_str(limit=78)))
                for name, command in found
                if isinstance(command, _Command)
            ],
        )


def _write_groups(formatter: Any, rows: list[tuple[str, tuple[str, str]]]) -> None:
    for title in dict.fromkeys(title for title, _ in rows):
        with formatter.section(title):
            formatter.write_dl([row for group, row in rows if group == title])


APP = typer.Typer(
    name=PROGRAM,
    cls=_Group,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Distil an image-caption dataset into a few synthetic pairs, and measure how well they
    train.

    Run it in the top folder of the repository: values stand in params.yaml there. What is made
    already is used, and a run that was killed goes on with the same command.

    \b
    vl-distillery plan                       what a run will take
    vl-distillery pipeline                   everything of the chosen profile
    vl-distillery pipeline --profile coco    another profile of params.yaml
    vl-distillery distill --help             what one command takes
    """,
)


def _names(path: Path, *keys: str) -> list[str]:
    """Return the names under `keys` of a settings file; none where it cannot be read."""
    try:
        found: Any = files.read(path)
        for key in keys:
            found = found[key]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # a shell that completes shows no message
    return list(map(str, found))


def _profiles() -> list[str]:
    return _names(files.PARAMS, "profiles")


def _presets() -> list[str]:
    return _names(files.PARAMS.with_name(files.PRESETS), "presets")


def _coresets() -> list[str]:
    return _names(files.PARAMS, "methods", "coresets")


def _distillers() -> list[str]:
    return _names(files.PARAMS, "methods", "distillers")


Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A profile of params.yaml, instead of the one that `profile` names there.",
        rich_help_panel=VALUES,
        autocompletion=_profiles,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override one value of params.yaml; may be given several times.",
        rich_help_panel=VALUES,
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Compute again what this command makes, even when it is there.",
        rich_help_panel=AGAIN,
    ),
]
AcceptCode = Annotated[
    bool,
    typer.Option(
        "--accept-code",
        help="Keep artifacts whose code alone has changed; their manifests record it.",
        rich_help_panel=AGAIN,
    ),
]


def _method(names: Callable[[], list[str]], text: str, *declared: str) -> Any:
    return typer.Option(
        *declared, metavar="NAME", help=text, rich_help_panel=CHOICE, autocompletion=names
    )


ONE = "This method only, instead of all that `methods` of params.yaml names."
Coreset = Annotated[str | None, _method(_coresets, ONE)]
Distiller = Annotated[str | None, _method(_distillers, ONE)]
Grid = Annotated[
    list[str] | None,
    _method(_distillers, "A method of the grid; may be given several times.", "--method"),
]
Sizes = Annotated[
    list[int] | None,
    typer.Option(
        "--num-pairs",
        metavar="N",
        help="A size of the grid, one of `budgets`; may be given several times.",
        rich_help_panel=CHOICE,
    ),
]


Preset = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="A table of presets.yaml.",
        rich_help_panel=CHOICE,
        autocompletion=_presets,
    ),
]
List = Annotated[
    bool,
    typer.Option(
        "--list",
        help="Name the tables and their cells, and run nothing.",
        rich_help_panel=CHOICE,
    ),
]


def parse(arguments: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return the command that the arguments name, and its words: what its flow takes.

    Asked for help or completion it prints and exits with 0. Wrong usage is one message and 2.
    """
    line: Any = typer.main.get_command(APP)
    try:
        found = line.main(list(arguments) or ["--help"], PROGRAM, standalone_mode=False)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else PROGRAM
        message = error.format_message().rstrip(".")
        print(
            f"error: {message}; received {shlex.join(arguments)!r}; `{path} --help` says what is "
            "allowed",
            file=sys.stderr,
        )
        sys.exit(2)
    if isinstance(found, int):  # it has printed what was asked for
        sys.exit(found if arguments else 2)
    return found


def _flow(
    profile: str | None, settings: list[str] | None, force: bool, accept_code: bool, **own: Any
) -> dict[str, Any]:
    """Return the words of a flow; `--profile` is the first of its settings."""
    return {
        "settings": _settings(profile, settings),
        "force": force,
        "accept_code": accept_code,
        **own,
    }


def _settings(profile: str | None, settings: list[str] | None) -> list[str]:
    return [*([] if profile is None else [f"profile={profile}"]), *(settings or [])]


def _command(name: str, panel: str, text: str, *examples: str) -> Callable[[Any], Any]:
    """Make a command of a function that returns its words.

    Args:
        text: what it does; the first sentence stands in the list of commands.
        examples: what follows the name of the command.
    """
    shown = "\n".join(f"{PROGRAM} {name} {example}".rstrip() for example in examples)
    help_text = f"{text}\n\nExamples:\n\n\b\n{shown}"
    return APP.command(name, cls=_Command, help=help_text, rich_help_panel=panel)


def _plain(name: str, panel: str, text: str, *examples: str) -> None:
    """Make the command of a flow that has no options of its own."""

    @_command(name, panel, text, *examples)
    def words(
        profile: Profile = None,
        settings: Settings = None,
        force: Force = False,
        accept_code: AcceptCode = False,
    ) -> dict[str, Any]:
        return _flow(profile, settings, force, accept_code)


_plain(
    "prepare_data",
    STAGES,
    "Read the raw dataset, and store its images at one size. A damaged or missing image stops it "
    "with its name.",
    "",
    "--profile flickr8k --set prepare_data.options.path=/data/flickr8k",
)
_plain(
    "embed_captions",
    STAGES,
    "Turn the captions into vectors by the frozen text encoder. Earlier stages are made where "
    "they are missing.",
    "",
)
_plain(
    "train_experts",
    STAGES,
    "Train the experts on the full data, and store the path of their parameters. It goes on from "
    "the last epoch when it was killed.",
    "",
    "--set train_experts.num_experts=4",
)


@_command(
    "select_coresets",
    STAGES,
    "Choose real pairs by each coreset method, at each size.",
    "",
    "--method herding",
)
def _select_coresets(
    method: Coreset = None,
    profile: Profile = None,
    settings: Settings = None,
    force: Force = False,
    accept_code: AcceptCode = False,
) -> dict[str, Any]:
    return _flow(profile, settings, force, accept_code, method=method)


@_command(
    "distill",
    STAGES,
    "Make synthetic pairs by each distillation method, at each size. It goes on from its last "
    "checkpoint when it was killed.",
    "--method bi_trajectory",
    "--set distill.matching.iterations=200 --set budgets=[50]",
)
def _distill(
    method: Distiller = None,
    profile: Profile = None,
    settings: Settings = None,
    force: Force = False,
    accept_code: AcceptCode = False,
) -> dict[str, Any]:
    return _flow(profile, settings, force, accept_code, method=method)


_plain(
    "evaluate",
    STAGES,
    "Train fresh students on every set and the full data; score them.",
    "",
    "--set evaluate.num_eval=5",
)
_plain(
    "report",
    STAGES,
    "Write reports/index.html: the table, curves and galleries.",
    "",
)
_plain(
    "pipeline",
    WHOLE,
    "Run all stages of a profile, from the raw dataset to the report.",
    "",
    "--profile flickr8k --set prepare_data.options.path=/data/flickr8k",
    "--force",
)


@_command(
    "distill_sweep",
    WHOLE,
    "Distil and score a grid of methods and sizes, each beside random pairs.",
    "--method bi_trajectory --method lors --num-pairs 100",
)
def _distill_sweep(
    methods: Grid = None,
    budgets: Sizes = None,
    profile: Profile = None,
    settings: Settings = None,
    force: Force = False,
    accept_code: AcceptCode = False,
) -> dict[str, Any]:
    return _flow(profile, settings, force, accept_code, methods=methods, budgets=budgets)


@_command(
    "preset",
    WHOLE,
    "Make a table of the paper. Each of its cells changes a few values of the profile.",
    "--list",
    "single_modality --profile flickr8k",
)
def _preset(
    preset: Preset = None,
    list: List = False,
    profile: Profile = None,
    settings: Settings = None,
    force: Force = False,
    accept_code: AcceptCode = False,
) -> dict[str, Any]:
    if preset is None and not list:
        known = ", ".join(_presets())
        raise typer.BadParameter(f"a table is missing; allowed: {known}", param_hint="NAME")
    return _flow(profile, settings, force, accept_code, preset=preset, list=list)


@_command(
    "plan",
    BESIDE,
    "Say before a run what each stage will take: seconds, memory and disk. It measures a few rows "
    "and makes nothing.",
    "",
    "--profile flickr30k --json",
)
def _plan(
    profile: Profile = None,
    settings: Settings = None,
    is_json: Annotated[
        bool, typer.Option("--json", help="Print every artifact, for programs.")
    ] = False,
) -> dict[str, Any]:
    return {"settings": _settings(profile, settings), "is_json": is_json}


@_command(
    "demo",
    BESIDE,
    "Run everything by DVC, and say where the report is.",
    "",
)
def _demo() -> dict[str, Any]:
    return {}


@_command(
    "ui",
    BESIDE,
    "Serve Prefect and MLflow on 127.0.0.1 until Ctrl-C. Runs that start meanwhile in this folder "
    "are seen live.",
    "",
    "--prefect-port 4300",
)
def _ui(
    prefect_port: Annotated[int, typer.Option(help="Port of Prefect.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow.")] = 5000,
) -> dict[str, Any]:
    return {"prefect_port": prefect_port, "mlflow_port": mlflow_port}
