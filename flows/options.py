"""The options of the command line, with their help, their groups and the names they complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    """All commands. A name may be written with hyphens: `prepare-data` is `prepare_data`."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command by its name, with hyphens or underscores."""
        return super().get_command(ctx, cmd_name.replace("-", "_"))

    def invoke(self, ctx: Any) -> tuple[str, Words]:
        """Return the command's name and its words; nothing runs in here."""
        words: Words = super().invoke(ctx)
        if "profile" in words:
            # Before all others: their keys are looked up in the profile that is chosen by then
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


def check_named(is_named: object, kind: str, names: Callable[[], Iterable[str]]) -> None:
    """Refuse a command that needs a name, or `--list`, and has neither."""
    if not is_named:
        known = ", ".join(names())
        raise typer.BadParameter(f"a {kind} is missing; allowed: {known}", param_hint="NAME")


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


def _option(panel: str, text: str, *declared: str, **how: Any) -> Any:
    return typer.Option(*declared, help=text, rich_help_panel=panel, **how)


def _argument(panel: str, metavar: str, text: str, **how: Any) -> Any:
    return typer.Argument(metavar=metavar, help=text, rich_help_panel=panel, **how)


def _method(names: Callable[[], list[str]], text: str, *declared: str) -> Any:
    return _option(CHOICE, text, *declared, metavar="NAME", autocompletion=names)


Profile = Annotated[
    str | None,
    _option(
        VALUES,
        "A profile of params.yaml, instead of the one that `profile` names there.",
        metavar="NAME",
        autocompletion=_profiles,
    ),
]
Settings = Annotated[
    list[str] | None,
    _option(
        VALUES,
        "Override one value of params.yaml; may be given several times.",
        "--set",
        metavar="SECTION.KEY=VALUE",
    ),
]
Force = Annotated[
    bool,
    _option(AGAIN, "Compute again what this command makes, even when it is there.", "--force"),
]
AcceptCode = Annotated[
    bool,
    _option(
        AGAIN,
        "Keep artifacts whose code alone has changed; their manifests record it.",
        "--accept-code",
    ),
]

ONE = "One method that `methods` of params.yaml names, instead of all of them."
Coreset = Annotated[str | None, _method(_coresets, ONE)]
Distiller = Annotated[str | None, _method(_distillers, ONE)]
Grid = Annotated[
    list[str] | None,
    _method(_distillers, "A method of the grid; may be given several times.", "--method"),
]
Sizes = Annotated[
    list[int] | None,
    _option(
        CHOICE,
        "A size of the grid, one of `budgets`; may be given several times.",
        "--num-pairs",
        metavar="N",
    ),
]

Workers = Annotated[
    int,
    _option(
        CHOICE,
        "Cells made at once: processes on this machine, or units on --pool.",
        min=1,
        max=256,
        metavar="N",
    ),
]
SweepName = Annotated[
    str | None,
    _option(CHOICE, "Of the sweep; the same name goes on with it.", "--name", metavar="NAME"),
]
WorkPool = Annotated[
    str | None,
    _option(
        CHOICE,
        "A work pool of Prefect, gpu or cpu, whose workers make the cells; or ray, the cluster "
        "that RAY_ADDRESS names.",
        "--pool",
        metavar="NAME",
    ),
]
NumGpus = Annotated[
    float | None,
    _option(
        CHOICE,
        "Share of a card that a unit takes with --pool ray; one where there are cards.",
        min=0.0,
        max=1.0,
        metavar="SHARE",
    ),
]

Action = Annotated[str, _argument(CHOICE, "ACTION", "status, cancel or resume.")]
Sweep = Annotated[
    str | None, _argument(CHOICE, "NAME", "A sweep by its name; status without one lists all.")
]
Preset = Annotated[
    str | None, _argument(CHOICE, "NAME", "A table of presets.yaml.", autocompletion=presets)
]
Study = Annotated[
    str | None, _argument(CHOICE, "NAME", "A study of presets.yaml.", autocompletion=studies)
]
Json = Annotated[bool, typer.Option("--json", help="Print everything as JSON, for programs.")]
List = Annotated[bool, _option(CHOICE, "Name what there is to run, and run nothing.", "--list")]


Set = Annotated[str, _argument(CHOICE, "SET", "A set of the profile, <method>-<num_pairs>.")]
To = Annotated[
    str,
    _option(WRITTEN, "The folder to write; without --replace it must not exist.", metavar="DIR"),
]
Layout = Annotated[
    str, _option(WRITTEN, "huggingface, webdataset or folder.", "--format", metavar="LAYOUT")
]
Picture = Annotated[
    str, _option(WRITTEN, "png, or webp without loss.", "--pictures", metavar="KIND")
]
WithTest = Annotated[
    bool,
    _option(
        WRITTEN,
        "Add the test split and the image encoder, on which the card trains and scores.",
        "--with-test",
    ),
]
Licence = Annotated[
    str, _option(WRITTEN, "Licence of the source, as the hub names it.", metavar="NAME")
]
Allows = Annotated[str, _option(WRITTEN, "What that licence allows.", "--allows", metavar="TEXT")]
Replace = Annotated[bool, _option(WRITTEN, "Replace an older one.", "--replace")]
Embeddings = Annotated[
    list[str],
    _argument(
        READ,
        "EMBEDDINGS...",
        "One .safetensors with everything, or two files, of images and of texts: .npy, "
        ".safetensors or .parquet, FILE:KEY where one holds several.",
    ),
]
Mapping = Annotated[
    str | None,
    _option(
        READ,
        "The image of each caption, from 0: .json, .csv, .npy, .safetensors or .parquet.",
        metavar="FILE",
    ),
]
Similarity = Annotated[str, _option(READ, "cosine, or inner products.", metavar="KIND")]

Source = Annotated[
    str,
    _argument(
        READ, "PATH", "An export, a .pt file, a list of ids, or a folder or table of real pairs."
    ),
]
As = Annotated[str, _option(WRITTEN, "The name of the set here.", "--as", metavar="NAME")]
TextEncoder = Annotated[
    str | None, _option(STATED, "The text encoder, as in folders.", metavar="NAME")
]
Mean = Annotated[str | None, _option(STATED, "Mean of the images, per channel.", metavar="R,G,B")]
Std = Annotated[
    str | None, _option(STATED, "Deviation of the images, per channel.", metavar="R,G,B")
]
Loss = Annotated[str | None, _option(STATED, "The loss of students.", metavar="NAME")]
PictureColumn = Annotated[str | None, _option(STATED, "The column of pictures.", metavar="NAME")]
CaptionColumn = Annotated[str | None, _option(STATED, "The column of captions.", metavar="NAME")]
Resize = Annotated[
    bool,
    _option(STATED, "Bring real pictures of other sizes to that of the profile.", "--resize"),
]
SimAlpha = Annotated[float | None, _option(STATED, "Alpha of the similarity.", metavar="NUMBER")]

Teacher = Annotated[
    str | None,
    _option(
        READ,
        "A profile of params.yaml with the image encoder that teaches; without one it is that of "
        "the profile itself, as params.yaml has it.",
        metavar="PROFILE",
        autocompletion=_profiles,
    ),
]
WeightsTo = Annotated[
    str | None,
    _option(
        WRITTEN,
        "The .safetensors file to write; without one it is what model.options.weights names.",
        "--to",
        metavar="FILE",
    ),
]
Epochs = Annotated[
    int | None, _option(CHOICE, "Passes over the training images.", "--epochs", metavar="N")
]
Minutes = Annotated[
    float | None,
    _option(
        CHOICE,
        "As many whole epochs as fit into them, by the time of the first steps.",
        "--minutes",
        metavar="MINUTES",
    ),
]

Dataset = Annotated[
    str,
    _argument(
        READ,
        "NAME|URL",
        "flickr8k, flickr30k, coco, an address, or with --from-dir any name.",
    ),
]
FromDir = Annotated[str | None, _option(READ, "A folder that you have.", metavar="DIR")]
Copied = Annotated[
    bool | None,
    _option(
        READ, "Copy its files for DVC to store, or link to them where they are.", "--copy/--link"
    ),
]
AcceptTerms = Annotated[
    bool,
    _option(READ, "The terms that are printed without it are accepted.", "--accept-terms"),
]
FetchedAs = Annotated[
    str | None, _option(WRITTEN, "The folder in raw/ for an address.", "--as", metavar="NAME")
]
