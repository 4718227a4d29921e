"""What the command line takes: commands, help, completion, and answers to typos.

`parse` returns a command with its words, and flows/cli.py runs it. This file imports neither
PyTorch nor Prefect, so that help and completion come at once. Options: flows/options.py.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from flows import options
from flows.options import AcceptCode, Force, Profile, Settings, Words

PROGRAM = "vl-distillery"
# An address with a user, a password or a query
_SECRET = re.compile("://.*[@?].*", re.DOTALL)
STAGES, WHOLE, BESIDE = "Stages, in order", "Whole runs", "Before and beside a run"


APP = typer.Typer(
    name=PROGRAM,
    cls=options.Group,
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


def parse(arguments: Sequence[str]) -> tuple[str, Words]:
    """Return the command that the arguments name, and its words: what its flow takes.

    Asked for help or completion it prints and exits with 0. Wrong usage is one message and 2.
    """
    # Not standalone: it returns the words, and errors are told below in our own form
    line: Any = typer.main.get_command(APP)
    try:
        found = line.main(list(arguments) or ["--help"], PROGRAM, standalone_mode=False)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else PROGRAM
        message = error.format_message().rstrip(".")
        # An address may hold a password, and the message repeats what was typed
        shown = [_SECRET.sub("://...", word) for word in arguments]
        for word, bare in zip(arguments, shown, strict=True):
            message = message.replace(word, bare)
        print(
            f"error: {message}; received {shlex.join(shown)!r}; `{path} --help` says what is "
            "allowed",
            file=sys.stderr,
        )
        sys.exit(2)
    if isinstance(found, int):  # it has printed what was asked for
        # Without any word help was printed too, but nothing was asked for
        sys.exit(found if arguments else 2)
    return found


def _command(name: str, panel: str, text: str, *examples: str) -> Callable[[Any], Any]:
    """Make a command of a function that returns its words: all that it was given.

    Args:
        text: what it does; the first sentence stands in the list of commands.
        examples: what follows the name of the command.
    """
    shown = "\n".join(f"{PROGRAM} {name} {example}".rstrip() for example in examples)
    help_text = f"{text}\n\nExamples:\n\n\b\n{shown}"
    return APP.command(name, cls=options.Command, help=help_text, rich_help_panel=panel)


def _plain(name: str, panel: str, text: str, *examples: str) -> None:
    """Make the command of a flow that has no options of its own."""

    @_command(name, panel, text, *examples)
    def words(
        profile: Profile = None,
        settings: Settings = None,
        force: Force = False,
        accept_code: AcceptCode = False,
    ) -> Words:
        # All that was given, by the names of the flow's parameters; so in every command below
        return locals()


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
    method: options.Coreset = None,
    profile: Profile = None,
    settings: Settings = None,
    force: Force = False,
    accept_code: AcceptCode = False,
) -> Words:
    return locals()


@_command(
    "distill",
    STAGES,
    "Make synthetic pairs by each distillation method, at each size. It goes on from its last "
    "checkpoint when it was killed.",
    "--method bi_trajectory",
    "--set distill.matching.iterations=200 --set 'budgets=[50]'",
)
def _distill(
    method: options.Distiller = None,
    profile: Profile = None,
    settings: Settings = None,
    force: Force = False,
    accept_code: AcceptCode = False,
) -> Words:
    return locals()


_plain(
    "evaluate",
    STAGES,
    "Train fresh students on every set and the full data; score them.",
    "",
    "--set evaluate.num_eval=5",
)
_plain("report", STAGES, "Write reports/<profile>/index.html: the table, curves, galleries.", "")
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
    "Distil and score the cells of a sweep, each beside random pairs. `sweep` of params.yaml says "
    "which; without one it is a grid of methods and sizes.",
    "--method bi_trajectory --num-pairs 20",
    "--workers 2 --set 'sweep.grid={distill.matching.lr_img: [0.01, 0.03]}'",
)
def _distill_sweep(
    methods: options.Grid = None,
    budgets: options.Sizes = None,
    workers: options.Workers = 1,
    name: options.SweepName = None,
    pool: options.WorkPool = None,
    num_gpus: options.NumGpus = None,
    profile: Profile = None,
    settings: Settings = None,
    force: Force = False,
    accept_code: AcceptCode = False,
) -> Words:
    return locals()


@_command(
    "sweep",
    WHOLE,
    "Say how sweeps stand (status), end one (cancel), or go on with one (resume).",
    "status",
    "resume lr",
)
def _sweep(
    action: options.Action,
    name: options.Sweep = None,
    profile: Profile = None,
    settings: Settings = None,
) -> Words:
    return locals()


@_command(
    "preset",
    WHOLE,
    "Make a table of the paper. Each of its cells changes a few values of the profile.",
    "--list",
    "single_modality --profile flickr8k",
)
def _preset(
    preset: options.Preset = None,
    list: options.List = False,
    profile: Profile = None,
    settings: Settings = None,
    force: Force = False,
    accept_code: AcceptCode = False,
) -> Words:
    options.check_named(preset or list, "table", options.presets)
    return locals()


@_command(
    "study",
    WHOLE,
    "Train heads of many kinds on the sets of a profile, and say what the sets are good for.",
    "--list",
    "architecture_search --profile flickr8k",
)
def _study(
    study: options.Study = None,
    list: options.List = False,
    profile: Profile = None,
    settings: Settings = None,
    force: Force = False,
    accept_code: AcceptCode = False,
) -> Words:
    options.check_named(study or list, "study", options.studies)
    return locals()


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
    is_json: options.Json = False,
) -> Words:
    return locals()


@_command(
    "fetch",
    BESIDE,
    "Get a raw dataset: flickr8k, coco, or the file of an address; or take what you have. It goes "
    "on where it broke off, and DVC registers it.",
    "flickr8k --accept-terms",
    "flickr30k --from-dir /data/flickr30k --link",
    "https://example.org/pets.zip --as pets --accept-terms",
)
def _fetch(
    what: options.Dataset,
    name: options.FetchedAs = None,
    from_dir: options.FromDir = None,
    is_copied: options.Copied = None,
    is_accepted: options.AcceptTerms = False,
) -> Words:
    return locals()


@_command(
    "pretrain",
    BESIDE,
    "Train an image encoder that has no weights: on the features of another one and on the "
    "captions. --set pretrain.KEY=VALUE changes batch_size, lr, weight_decay, warm_up, "
    "text_weight, embed_dim, crop_scale or checkpoint_every. It goes on where it was killed.",
    "--set variant=lora_vit/full --epochs 2",
    "--profile flickr8k_small --set variant=lora_vit/full --minutes 60",
)
def _pretrain(
    teacher: options.Teacher = None,
    to: options.WeightsTo = None,
    epochs: options.Epochs = None,
    minutes: options.Minutes = None,
    profile: Profile = None,
    settings: Settings = None,
) -> Words:
    return locals()


@_command(
    "export",
    BESIDE,
    "Write a set as a folder that loads without this program. Its card says what the set is, how "
    "it scores and how to load it.",
    "bi_trajectory-20 --to toy-20",
    "herding-20 --to toy-20-real --format folder --with-test --licence mit",
)
def _export(
    name: options.Set,
    to: options.To,
    layout: options.Layout = "huggingface",
    picture: options.Picture = "png",
    is_test_included: options.WithTest = False,
    licence: options.Licence = "unknown",
    allowed: options.Allows = "unknown",
    replace: options.Replace = False,
    profile: Profile = None,
    settings: Settings = None,
) -> Words:
    return locals()


@_command(
    "import",
    BESIDE,
    "Store a set of somebody else, to score it by `methods.imported`. It is an export, a .pt file "
    "of published code, a list of ids, or real pairs.",
    "exports/toy-20 --as theirs",
    "photos --as mine --text-encoder hashed_256 --resize",
    "lors.pt --as lors_published --text-encoder bert_base_uncased --mean 0.5,0.5,0.5 "
    "--std 0.5,0.5,0.5 --loss wbce --sim-alpha 3",
)
def _import(
    path: options.Source,
    name: options.As,
    text_encoder: options.TextEncoder = None,
    mean: options.Mean = None,
    std: options.Std = None,
    loss: options.Loss = None,
    sim_alpha: options.SimAlpha = None,
    picture_column: options.PictureColumn = None,
    caption_column: options.CaptionColumn = None,
    resize: options.Resize = False,
    replace: options.Replace = False,
    profile: Profile = None,
    settings: Settings = None,
) -> Words:
    return locals()


@_command(
    "score",
    BESIDE,
    "Print Recall@K in both directions for embeddings of your own, with any number of captions an "
    "image and with ties.",
    "all.safetensors",
    "images.npy texts.npy --mapping mapping.json --json",
)
def _score(
    files: options.Embeddings,
    mapping: options.Mapping = None,
    similarity: options.Similarity = "cosine",
    is_json: options.Json = False,
) -> Words:
    return locals()


@_command(
    "demo", BESIDE, "Run everything once, record it with DVC, and say where the report is.", ""
)
def _demo() -> Words:
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
    prefect_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of Prefect.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of MLflow.")] = 5000,
) -> Words:
    return locals()
