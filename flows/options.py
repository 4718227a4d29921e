"""The options of the command line, with their help, their groups and the names they complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from tasks.settings import files

VALUES, AGAIN, CHOICE = "Values", "What is made again", "What to run"
WRITTEN, READ = "What is written", "What is read"
STATED = "What PATH does not say"
Words = dict[str, Any]


class Command(TyperCommand):
    """A command with its options in groups, in plain text on every terminal."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write each group of options under its title."""
        write_groups(
            formatter,
            [
                (getattr(param, "rich_help_panel", None) or "Other", record)
                for param in self.get_params(ctx)
                if (record := param.get_help_record(ctx))
            ],
        )


class Group(TyperGroup):
    """All commands; `prepare-data` is the same as `prepare_data`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by its name, with hyphens or underscores."""
        return super().get_command(ctx, cmd_name.replace("-", "_"))

    def invoke(self, ctx: Any) -> tuple[str, Words]:
        """Return the command's name and its words; nothing runs in here."""
        words: Words = super().invoke(ctx)
        if "profile" in words:
            profile, settings = words.pop("profile"), words["settings"] or []
            words["settings"] = settings if profile is None else [f"profile={profile}", *settings]
        return str(ctx.invoked_subcommand).replace("-", "_"), words

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the first sentence of each command, in groups."""
        found = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        write_groups(
            formatter,
            [
                (str(command.rich_help_panel), (name, command.get_short_help_str(limit=78)))
                for name, command in found
                if isinstance(command, Command)
            ],
        )


def write_groups(formatter: Any, rows: list[tuple[str, tuple[str, str]]]) -> None:
    """Write rows, each a group and an entry, group by group."""
    for title in dict.fromkeys(title for title, _ in rows):
        with formatter.section(title):
            formatter.write_dl([row for group, row in rows if group == title])


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


def presets() -> list[str]:
    return _names(files.PARAMS.with_name(files.PRESETS), "presets")


def studies() -> list[str]:
    return _names(files.PARAMS.with_name(files.PRESETS), "studies")


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


ONE = "One method that `methods` of params.yaml names, instead of all of them."
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

Workers = Annotated[
    int,
    typer.Option(
        min=1,
        max=256,
        metavar="N",
        help="Cells made at once: processes on this machine, or flow runs on --pool.",
        rich_help_panel=CHOICE,
    ),
]
SweepName = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="Of the sweep; the same name goes on with it.",
        rich_help_panel=CHOICE,
    ),
]
WorkPool = Annotated[
    str | None,
    typer.Option(
        "--pool",
        metavar="NAME",
        help="A work pool of Prefect, gpu or cpu, whose workers make the cells.",
        rich_help_panel=CHOICE,
    ),
]

Action = Annotated[
    str,
    typer.Argument(metavar="ACTION", help="status, cancel or resume.", rich_help_panel=CHOICE),
]
Sweep = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="A sweep by its name; status without one lists all.",
        rich_help_panel=CHOICE,
    ),
]


Preset = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="A table of presets.yaml.",
        rich_help_panel=CHOICE,
        autocompletion=presets,
    ),
]
Study = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME",
        help="A study of presets.yaml.",
        rich_help_panel=CHOICE,
        autocompletion=studies,
    ),
]
List = Annotated[
    bool,
    typer.Option(
        "--list",
        help="Name what there is to run, and run nothing.",
        rich_help_panel=CHOICE,
    ),
]


def _text(text: str, *declared: str, metavar: str = "TEXT") -> Any:
    return typer.Option(*declared, metavar=metavar, help=text, rich_help_panel=WRITTEN)


Set = Annotated[
    str,
    typer.Argument(
        metavar="SET", help="A set of the profile, <method>-<num_pairs>.", rich_help_panel=CHOICE
    ),
]
To = Annotated[str, _text("The folder to write; it must not exist.", metavar="DIR")]
Layout = Annotated[str, _text("huggingface, webdataset or folder.", "--format", metavar="LAYOUT")]
Picture = Annotated[str, _text("png, or webp without loss.", "--pictures", metavar="KIND")]
WithTest = Annotated[
    bool,
    typer.Option(
        "--with-test",
        help="Add the test split and the image encoder, on which the card trains and scores.",
        rich_help_panel=WRITTEN,
    ),
]
Licence = Annotated[str, _text("Licence of the source, as the hub names it.", metavar="NAME")]
Allows = Annotated[str, _text("What that licence allows.", "--allows")]
Replace = Annotated[
    bool,
    typer.Option("--replace", help="Replace an older one.", rich_help_panel=WRITTEN),
]
Embeddings = Annotated[
    list[str],
    typer.Argument(
        metavar="EMBEDDINGS...",
        help="One .safetensors with everything, or two files, of images and of texts: .npy, "
        ".safetensors or .parquet, FILE:KEY where one holds several.",
        rich_help_panel=READ,
    ),
]
Mapping = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The image of each caption, from 0: .json, .csv, .npy, .safetensors or .parquet.",
        rich_help_panel=READ,
    ),
]
Similarity = Annotated[
    str,
    typer.Option(metavar="KIND", help="cosine, or inner products.", rich_help_panel=READ),
]


def _stated(text: str, *declared: str, metavar: str = "TEXT") -> Any:
    return typer.Option(*declared, metavar=metavar, help=text, rich_help_panel=STATED)


Source = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="An export, a .pt file, a list of ids, or a folder or table of real pairs.",
        rich_help_panel=READ,
    ),
]
As = Annotated[str, _text("The name of the set here.", "--as", metavar="NAME")]
TextEncoder = Annotated[str | None, _stated("The text encoder, as in folders.", metavar="NAME")]
Mean = Annotated[str | None, _stated("Mean of the images, per channel.", metavar="R,G,B")]
Std = Annotated[str | None, _stated("Deviation of the images, per channel.", metavar="R,G,B")]
Loss = Annotated[str | None, _stated("The loss of students.", metavar="NAME")]
PictureColumn = Annotated[str | None, _stated("The column of pictures.", metavar="NAME")]
CaptionColumn = Annotated[str | None, _stated("The column of captions.", metavar="NAME")]
Resize = Annotated[
    bool,
    typer.Option(
        "--resize",
        help="Bring real pictures of other sizes to that of the profile.",
        rich_help_panel=STATED,
    ),
]
SimAlpha = Annotated[float | None, _stated("Alpha of the similarity.", metavar="NUMBER")]


def _read(text: str, *declared: str, metavar: str | None = None) -> Any:
    return typer.Option(*declared, metavar=metavar, help=text, rich_help_panel=READ)


Dataset = Annotated[
    str,
    typer.Argument(
        metavar="NAME|URL",
        help="flickr8k, flickr30k, coco, an address, or with --from-dir any name.",
        rich_help_panel=READ,
    ),
]
FromDir = Annotated[str | None, _read("A folder that you have.", metavar="DIR")]
Copied = Annotated[
    bool | None,
    _read("Copy its files for DVC to store, or link to them where they are.", "--copy/--link"),
]
AcceptTerms = Annotated[
    bool, _read("The terms that are printed without it are accepted.", "--accept-terms")
]
FetchedAs = Annotated[
    str | None, _text("The folder in raw/ for an address.", "--as", metavar="NAME")
]
