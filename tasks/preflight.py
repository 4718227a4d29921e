"""Before a run: every network that it will use is built once at its size and run on a few inputs.

What cannot work is found before anything is prepared, trained or fetched. `data/.checked` remembers
what did work by its options, weights, code and libraries, so that nothing is built again for this.
Flows begin with `check`. Raw data are looked for first: a hub that does not answer takes minutes.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tasks import keys, stages
from tasks.core.distillation.matching_config import MatchingConfig
from tasks.device import choose_device
from tasks.settings import steps
from tasks.settings.params import Params
from tasks.settings.steps import Network
from tasks.store import caching, manifests, travel
from tasks.store.artifacts import Key, Ref
from tasks.store.manifests import DamagedArtifact, Manifest, canonical_digest

LOGGER = logging.getLogger("vl_distillery")
CHECKED = stages.DATA / ".checked"
RANDOM = "random"
DATA_OPTIONS = "prepare_data.options"
NO_REF = Ref("", "")  # stands for inputs that are not compared
TEXT_DIM = 8  # of the vectors that stand in for captions: any width will do
OPTION = re.compile(r"\bmodel\.(?=options|lora|trainable|image_encoder|input_size)")
LIBRARIES = ("torch", "timm", "torchvision", "transformers", "peft", "faiss-cpu", "faiss-gpu")


def check(params: Params, stage: str, *, with_weights: bool = True) -> None:
    """Check the networks of a stage and of those that it builds on.

    Weights are not asked for where an artifact has been made from them.

    Args:
        with_weights: whether weights are needed at all; without them, image encoders alone are
            checked.

    Raises:
        ValueError, FileNotFoundError: raw data are not there, or a network cannot be built, run or
            trained as it is asked for; the message names the parameter.
    """
    _check_data(params)
    sections = stages.sections_of(stage)
    if "embed_captions" in sections and with_weights:
        with _placed(params, "embed_captions"):
            _check_captions(params)
    if "model" in sections:
        with _placed(params, "model"):
            _check_images(params, "distill" in sections, with_weights)
    if "evaluate" in sections:
        with _placed(params, "evaluate"):
            _once({}, ["tasks.search"], _search)
        for name in params.students:
            with _placed(params, f"evaluate.cross_architecture.{name}"):
                _check_images(params.as_student(name), False, with_weights)


def check_named_data(params: Params, settings: Sequence[str]) -> None:
    """Refuse raw data that a setting names and that are not there.

    Without raw data a prepared artifact stands in, and that may be of other data than were named.

    Args:
        settings: overrides of params.yaml, which `params` were loaded with.

    Raises:
        FileNotFoundError: a folder or a file is not there.
    """
    named = [one.partition("=")[0] for one in settings]
    if not {DATA_OPTIONS, f"{DATA_OPTIONS}.path"}.intersection(named):
        return
    _, missing = keys.of_prepared(steps.preparation(params))
    if missing is not None:
        raise FileNotFoundError(
            f"{missing}; what was prepared before may be of other data, and is used without this "
            "--set alone"
        ) from missing


def _check_data(params: Params) -> None:
    """Refuse raw data that are not there, before a network is built or asked for at the hub."""
    work = steps.preparation(params)
    # What is prepared may stand in for raw data; the stage decides that
    if work.folder.exists():
        return
    key, missing = keys.of_prepared(work)
    if missing is not None and not travel.offered(key):
        raise missing


@contextlib.contextmanager
def _placed(params: Params, section: str) -> Iterator[None]:
    """Say in which section a mistake is."""
    place = f"profiles.{params.profile}.{section}"
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"{place}: a library is missing: {error}; install it, or choose what needs none"
        ) from error
    except (ValueError, FileNotFoundError, PermissionError) as error:
        text, where = str(error), " in params.yaml or by --set"
        if params.variant is not None:
            where = f" {params.variant.place}"
        elif "params.yaml" in text:
            where = ""
        if "." in section:
            # Networks name the options of `model`; a further student has its own
            text = OPTION.sub(f"{section}.", text)
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f"{place}: {text}{where}") from error


def _once(what: dict[str, Any], code: list[str], run: Callable[[], None]) -> None:
    """Run a check, unless the same has passed before."""
    versions = {name: _version(name) for name in LIBRARIES}
    # This file names whatever of core a check runs, see `code_digest`
    device, of_code = choose_device().type, caching.code_digest([*code, "tasks.preflight"])
    note = CHECKED / canonical_digest([what, versions, device, of_code])
    if not note.exists():
        run()
        note.parent.mkdir(parents=True, exist_ok=True)
        note.touch()


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_made(
    folder: Path, key: Key, encoder: dict[str, Any], weights: dict[str, str], missing: keys.Missing
) -> bool:
    """Whether the artifact in `folder` is of these weights, or of files by the names of missing
    ones; or the store has one that is.
    """
    made = []
    with contextlib.suppress(DamagedArtifact):
        made.append(manifests.read(folder))
    now = json.loads(json.dumps(encoder))  # a manifest knows no tuples
    names = set(getattr(missing, "names", ()))

    def is_of_these(found: Manifest) -> bool:
        is_same = all(found.params.get(name) == value for name, value in now.items())
        return is_same and weights.items() <= found.inputs.items() and names <= set(found.inputs)

    if missing and not any(map(is_of_these, made)):
        made = travel.offered(key)
    return any(map(is_of_these, made))


def _check_captions(params: Params) -> None:
    plugin = params.text_encoder
    encoder, weights, missing = keys.of_encoder(plugin)
    work = steps.embedding(params)
    key, _ = keys.of_embeddings(work, NO_REF)
    if _is_made(work.folder, key, encoder, weights, missing):
        return

    def run() -> None:
        from tasks.core.networks.informative import check_informative

        LOGGER.info("checking the text encoder %s, fetched where it is not here", plugin.label)
        captions = plugin.module.examples(plugin.config)
        check_informative(
            plugin.module.embed(plugin.config, captions, device=choose_device()),
            captions.__getitem__,
            what=f"the text encoder {plugin.label}",
            causes="weights that are zero, a tokenizer of another network",
            where="change embed_captions.options (weights, pooling or dtype)",
        )

    _once({"text": encoder, "weights": weights}, [plugin.module_name], run)


def _check_images(params: Params, is_distilled: bool, with_weights: bool) -> None:
    """Check the form of a network with random weights, and then its weights.

    Args:
        is_distilled: whether the engines of the distillation methods have to work on it.
    """
    work, size = steps.start(params), params.prepare_data.image_size
    network, plugin = work.network, work.network.image_encoder
    code = [plugin.module_name, "tasks.core.networks.functional", "tasks.models"]
    as_random = {"weights": RANDOM} if hasattr(plugin.config, "weights") else {}
    # Random weights: whether a network can be built and trained is told before a file is fetched
    bare = replace(plugin, config=replace(plugin.config, **as_random))
    methods = params.distillers.values() if is_distilled else ()
    configs = [method.config for method in methods if isinstance(method.config, MatchingConfig)]
    # A temperature changes nothing of what can be built, so a sweep over it is checked once
    model = {name: value for name, value in asdict(network.model).items() if name != "tau"}
    form = {"image": bare.as_params(), "model": model, "sizes": [size, network.input_size]}

    def run_form() -> None:
        LOGGER.info("checking the image encoder %s at %d px", network.name, size)
        _train(replace(network, image_encoder=bare), size, configs)

    def run_weights() -> None:
        from tasks.core.networks.informative import check_on_noise, check_weights

        encoder = plugin.module.build(plugin.config, seed=network.seed)
        who = {
            "what": f"the image encoder {network.name}",
            "where": "change model.options (weights, mean or std)",
        }
        check_weights(encoder.module, **who)
        why = "weights that are zero, a mean or std that flattens the images"
        check_on_noise(_sized(network, encoder), size, device=choose_device(), causes=why, **who)

    _once({**form, "methods": [asdict(config) for config in configs]}, code, run_form)
    encoder, weights, missing = keys.of_encoder(plugin)
    stage = "evaluate" if network.is_further else "train_experts"
    key, _ = keys.of_start(network, NO_REF, stages.STAGES[stage].code)
    if with_weights and not _is_made(work.folder, key, encoder, weights, missing):
        _once(
            {**form, "image": encoder, "weights": weights, "seed": network.seed}, code, run_weights
        )


def _sized(network: Network, encoder: Any) -> Any:
    from tasks.core.evaluation.transfer import at_size

    return at_size(encoder, network.input_size)


def _train(network: Network, size: int, methods: list[Any]) -> None:
    """Build a network as it is trained, and take the gradients that experts, students and
    distillation methods need, on a few random pairs.
    """
    from tasks.core.distillation.engine_probe import NUM_PAIRS, engine_of_network
    from tasks.core.foundations.seeding import make_generator
    from tasks.core.hypergradient.engines import DIFFERENCES
    from tasks.core.hypergradient.second_order import leaves
    from tasks.core.networks.encoders import encode_images, normalise
    from tasks.core.networks.functional import FlatModel
    from tasks.core.networks.libraries import said
    from tasks.core.training.losses import info_nce
    from tasks.models import new_model

    plugin, device = network.image_encoder, choose_device()
    encoder = _sized(network, plugin.module.build(plugin.config, seed=network.seed))
    draw = make_generator(0, "preflight")
    pixels = torch.randint(0, 256, (NUM_PAIRS, size, size, 3), generator=draw).to(torch.uint8)
    texts = torch.randn(NUM_PAIRS, TEXT_DIM, generator=draw).to(device)
    way = "model.input_size" if network.is_further else "prepare_data.image_size"
    pixels_now = network.input_size or size
    allowed = (
        f"allowed is a size that it takes; change {way}, model.options.name, or for a network of "
        f"timm that has it model.options.kwargs to {{img_size: {pixels_now}}}"
    )
    with said(f"{plugin.label} cannot encode images of {pixels_now} x {pixels_now} px", allowed):
        features = encode_images(encoder, pixels.numpy(), device=device)
    if features.shape != (NUM_PAIRS, encoder.out_dim):
        raise ValueError(
            f"{plugin.label} gives {tuple(features.shape)} for {NUM_PAIRS} images, needed is one "
            f"vector of {encoder.out_dim} for each; change model.options.name"
        )
    flat = FlatModel(new_model(network, encoder, TEXT_DIM, "preflight"))
    # The heads of a frozen encoder are layers of ours, which need no trial
    if network.model.is_encoder_frozen:
        return
    images = normalise(pixels.to(device), encoder.mean, encoder.std)
    with said(f"{plugin.label} cannot be trained", "change model.options.name or model.trainable"):
        theta = leaves(flat.flatten())
        loss = info_nce(*flat.call(theta, images, texts))
        torch.autograd.grad(loss, list(theta.values()))
    for config in methods:
        # The others need first derivatives alone
        if config.engine not in ("auto", *DIFFERENCES):
            engine_of_network(flat, config, images, texts, NUM_PAIRS, is_encoder_frozen=False)


def _search() -> None:
    """Score two pairs, as evaluation does."""
    from tasks.search import recall_by_search

    recall_by_search(torch.eye(2), torch.eye(2), torch.arange(2))
