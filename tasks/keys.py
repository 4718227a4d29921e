"""Makes the key of each artifact: what it depends on, and nothing else.

Two artifacts with equal keys have the same bytes. A key holds parameters, digests of the inputs,
and a digest of the code that makes the artifact. Every value that a stage computes with has to be
in it, or a stale artifact is used; any other value makes artifacts again for nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tasks.settings.steps import (
    Distillation,
    Embedding,
    Evaluation,
    Network,
    Preparation,
    Reporting,
    Selection,
    Showing,
    Training,
)
from tasks.settings.validation import Plugin
from tasks.stages import STAGES
from tasks.store import artifacts, caching, raw_files
from tasks.store.artifacts import Key, Ref

REPORTING = Path(__file__).parent / "reporting"
BEGIN_WITH = "begin_with"  # an option, and the name of the set among the inputs
# Why inputs cannot be looked at: raw data or weights that are not on this machine.
Missing = FileNotFoundError | None


@dataclass(frozen=True)
class Inputs:
    """References to what every network is trained on and begins with; flows hand it to tasks."""

    prepared: Ref
    embeddings: Ref
    start: Ref

    def digests(self, **more: Ref) -> dict[str, str]:
        """Return the digest of each artifact, and of `more`."""
        return _digests({**vars(self), **more})


def of_prepared(work: Preparation) -> tuple[Key, Missing]:
    """Return the key of a prepared dataset; without the raw data it has no input."""
    plugin, inputs, missing = work.dataset, dict[str, str](), None
    try:
        with raw_files.remembered() as digest_of:
            inputs = {"raw": plugin.module.raw_digest(plugin.config, digest_of)}
    except FileNotFoundError as error:
        missing = error
    options = asdict(plugin.config)
    options.pop("path", None)  # the content counts, not the place
    what = {"dataset": plugin.name, "options": options, **asdict(work.section)}
    return _key("prepare_data", what, inputs, plugin.module_name), missing


def of_encoder(plugin: Plugin) -> tuple[dict[str, Any], dict[str, str], Missing]:
    """Return name and options of an encoder, the digests of its weights, and what is missing."""
    weights, missing = caching.digest_files(lambda: plugin.module.weight_files(plugin.config))
    what = plugin.as_params()
    if weights or missing:
        what["options"].pop("weights")  # the content counts, not the place
    return what, weights, missing


def of_embeddings(work: Embedding, prepared: Ref) -> tuple[Key, Missing]:
    """Return the key of the embeddings of all captions."""
    what, weights, missing = of_encoder(work.text_encoder)
    inputs = {"prepared": prepared.digest, **weights}
    return _key("embed_captions", what, inputs, work.text_encoder.module_name), missing


def of_start(network: Network, prepared: Ref, code: Sequence[str]) -> tuple[Key, Missing]:
    """Return the key of a start, which holds features of the images when the encoder is frozen.

    Args:
        code: modules of the stage that makes it.
    """
    encoder, inputs, missing = of_encoder(network.image_encoder)
    is_frozen = network.model.is_encoder_frozen
    # Features of the images are in it; a trained encoder has none, and the data may change
    if is_frozen:
        inputs["prepared"] = prepared.digest
    what = {**encoder, "seed": network.seed, "is_frozen": is_frozen}
    # The distilled encoder takes images as prepared, and the prepared dataset is an input
    if network.is_further:
        what["input_size"] = network.input_size
    digest = caching.code_digest([*code, network.image_encoder.module_name])
    return Key("train_experts", what, inputs, digest), missing


def of_expert(work: Training, inputs: Inputs, index: int) -> Key:
    """Return the key of one expert."""
    # More experts, or more of the first, do not change the others
    section = _without(work.section, "num_experts", "num_epochs", "coreset_epochs")
    section["stored_epochs"] = work.section.stored_epochs(index)
    what = {"train_experts": section, "index": index}
    return _trained("train_experts", work.network, what, inputs.digests())


def of_shared(work: Selection, inputs: Inputs) -> Key:
    """Return the key of what a coreset method computes once for all sizes."""
    # How experts are stored, and how many there are, changes nothing of what is counted here
    recipe = _without(work.experts, "num_experts", "num_epochs", "coreset_epochs", "storage")
    what = {"shared": work.method.as_params(), "train_experts": recipe}
    return _trained("select_coresets", work.network, what, inputs.digests(), work.method)


def of_coreset(work: Selection, inputs: Inputs, warm: Ref, shared: Ref | None) -> Key:
    """Return the key of one coreset."""
    what = {
        "method": work.method.as_params(),
        "num_pairs": work.set_name.num_pairs,
        "coreset_epochs": work.experts.coreset_epochs,
    }
    read = {"warm": warm}
    if shared:
        read["shared"] = shared
    return _trained("select_coresets", work.network, what, inputs.digests(**read), work.method)


def of_distilled(
    work: Distillation, inputs: Inputs, experts: Sequence[Ref], earlier: Ref | None = None
) -> Key:
    """Return the key of one distilled set; `earlier` is the one of `work.begins_with`."""
    assert (earlier is None) == (work.begins_with is None), "the set that it begins with"
    method = work.method.as_params()
    # Checkpoints change no result, and what a set begins with is one of its inputs
    unsaid = {"checkpoint_every", BEGIN_WITH}
    read = {f"expert_{index:03d}": ref for index, ref in enumerate(work.read(experts))}
    if earlier:
        read[BEGIN_WITH] = earlier
    else:
        unsaid.add("earlier_lr_scale")
    method["options"] = _without_options(method["options"], unsaid)
    what = {"method": method, "num_pairs": work.set_name.num_pairs}
    methods = (work.method, *work.method.named)
    return _trained("distill", work.network, what, inputs.digests(**read), *methods)


def _without_options(options: Any, unsaid: Collection[str]) -> Any:
    """Return options without some of them, also where they stand in the options of a part."""
    if not isinstance(options, dict):
        return options
    kept = {name: value for name, value in options.items() if name not in unsaid}
    return {name: _without_options(value, unsaid) for name, value in kept.items()}


def of_score(work: Evaluation, inputs: Inputs, pairs: Ref | None, seed_idx: int) -> Key:
    """Return the key of the scores of one student; `pairs` None trains on the full data."""
    network, section = work.network, work.section
    # A score holds the one recipe that trained its student
    recipe, augment = section.small, None
    if pairs is None:
        recipe, augment = section.full, asdict(work.augment)
    what: dict[str, Any] = {
        "recipe": asdict(recipe),
        "augment": augment,
        "protocol": section.protocol,
        "seed_idx": seed_idx,
    }
    # Added only where they apply: a new entry in all keys would make every score again
    if network.is_further:
        what |= {"student": network.name, "input_size": network.input_size}
    if work.set_name.ending:
        what[work.set_name.ending.removeprefix("-")] = True
    read = {"pairs": pairs} if pairs else {}
    return _trained("evaluate", network, what, inputs.digests(**read))


def of_ceiling(work: Evaluation, inputs: Inputs, images: Ref | None) -> Key:
    """Return the key of the scores of linear heads; `images` are those that span them."""
    what = {
        "ceiling": str(work.set_name),
        "protocol": work.section.protocol,
        "student": work.network.name,
    }
    read = {"images": images} if images else {}
    # The start holds the features: no option of a network or of its training counts
    return _key("evaluate", what, inputs.digests(**read))


def of_gallery(work: Showing, prepared: Ref, embeddings: Ref, pairs: Ref) -> Key:
    """Return the key of the gallery of one set."""
    inputs = _digests({"prepared": prepared, "embeddings": embeddings, "pairs": pairs})
    what = {"gallery_pairs": work.gallery_pairs}
    return _key("evaluate", what, inputs, "tasks.reporting.gallery", "tasks.reporting.stored")


def of_report(work: Reporting, shown: Mapping[str, Sequence[Ref]]) -> Key:
    """Return the key of the report: what it shows, by kind, and its templates and code."""
    inputs: dict[str, str] = {}
    for kind, refs in shown.items():
        inputs |= {f"{kind}/{ref.path}": ref.digest for ref in refs}
    files = [*REPORTING.glob("templates/*.j2"), *REPORTING.glob("published_numbers/*.csv")]
    for path in sorted(files):
        inputs[str(path.relative_to(REPORTING.parent))] = artifacts.file_digest(path)
    what = {
        "profile": work.profile,
        "dataset": work.dataset,
        "gallery_pairs": work.gallery_pairs,
    }
    modules = (f"tasks.reporting.{path.stem}" for path in sorted(REPORTING.glob("*.py")))
    return _key("report", what, inputs, *modules)


def _digests(named: Mapping[str, Ref]) -> dict[str, str]:
    return {name: ref.digest for name, ref in named.items()}


def _key(stage: str, what: dict[str, Any], inputs: dict[str, str], *modules: str) -> Key:
    """Return a key that covers the code of a stage and `modules`."""
    return Key(stage, what, inputs, caching.code_digest([*STAGES[stage].code, *modules]))


def _trained(
    stage: str, network: Network, what: dict[str, Any], inputs: dict[str, str], *methods: Plugin
) -> Key:
    """Return the key of what a network, and a method, are trained for."""
    what = {**what, "seed": network.seed, "model": asdict(network.model)}
    # Only other numbers are said: a new entry in all keys would make every artifact again
    if network.hidden_layers != 1:
        what["hidden_layers"] = network.hidden_layers
    modules = [plugin.module_name for plugin in (*methods, network.image_encoder)]
    return _key(stage, what, inputs, *modules)


def _without(section: Any, *names: str) -> dict[str, Any]:
    return {name: value for name, value in asdict(section).items() if name not in names}
