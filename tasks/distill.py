"""distill: makes synthetic pairs, one artifact per method and size (METHOD 4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import keys, memory
from tasks.core.foundations.file_names import HISTORY, INITIAL
from tasks.device import choose_device, describe
from tasks.keys import Inputs
from tasks.progress import reporter
from tasks.settings.steps import Distillation
from tasks.step import step
from tasks.store import caching
from tasks.store.artifacts import Ref

if TYPE_CHECKING:
    from tasks.core.foundations.records import Split
    from tasks.core.networks.encoders import ImageEncoder
    from tasks.core.training.pair_set import PairSet


@step("{work.set_name}")
def distill(
    work: Distillation,
    inputs: Inputs,
    experts: list[Ref],
    earlier: Ref | None = None,
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return `data/distilled/<profile>/<method>/<method>-<num_pairs>`: a PairSet, its initial
    pairs, and the history.

    Args:
        earlier: the set of `work.begins_with`.
    """
    return caching.obtain(
        work.folder,
        keys.of_distilled(work, inputs, experts, earlier),
        lambda place: _distill(work, inputs, experts, earlier, place),
        force=force,
        accept_code=accept_code,
    )


def _distill(
    work: Distillation, inputs: Inputs, experts: list[Ref], earlier: Ref | None, place: Path
) -> dict[str, Any]:
    import pandas as pd

    from tasks.core.distillation.buffer import Buffer
    from tasks.core.distillation.run import Problem
    from tasks.core.foundations.checkpoints import NAME
    from tasks.core.foundations.seeding import derive_seed
    from tasks.core.foundations.tensor_files import save_tensors
    from tasks.core.networks.functional import FlatModel
    from tasks.core.training.pair_files import save_pairs
    from tasks.models import load_encoder, new_model, open_split

    network, config, num_pairs = work.network, work.method.config, work.set_name.num_pairs
    assert num_pairs
    encoder = load_encoder(network, inputs.start, choose_device())
    train = open_split(network, inputs, "train")
    text_dim = train.text_embeds.shape[1]
    # The model of expert 0: matching puts other parameters into it at every call
    flat = FlatModel(new_model(network, encoder, text_dim, "expert", 0))
    problem = Problem(
        flat=flat,
        encoder=encoder,
        train=train,
        buffer=Buffer(
            [ref.folder for ref in work.read(experts)], flat.flatten(), device=flat.device
        ),
        is_encoder_frozen=network.model.is_encoder_frozen,
        # Of the size, not of the method: methods of one size begin with the same draws
        seed=derive_seed(network.seed, "distill", num_pairs),
        tau=network.model.tau,
        fresh_theta=lambda number: FlatModel(
            new_model(network, encoder, text_dim, "fresh", number)
        ).flatten(),
        earlier=_earlier(earlier, work, train, encoder) if earlier else None,
    )
    report = reporter(f"distill {work.set_name}")
    with memory.watch() as peak:
        found = work.method.module.distill(
            problem,
            config,
            num_pairs,
            checkpoint=place / NAME,
            log=lambda row, iteration: report(
                iteration + 1, config.total_iterations, loss=row["loss"]
            ),
        )
    provenance = {
        "method": work.method.name,
        "profile": network.profile,
        "image_idx": found.initial.image_idx.tolist(),
        "caption_idx": found.initial.caption_idx.tolist(),
    }
    if problem.earlier:
        told = {"set": str(work.begins_with), "num_pairs": problem.earlier.num_pairs}
        provenance["begins_with"] = told
    save_pairs(place, found.pairs.with_provenance(provenance))
    save_tensors(
        place / INITIAL, {"images": found.initial.images, "text_embeds": found.initial.text_embeds}
    )
    history = pd.DataFrame(found.history).rename_axis("iteration").reset_index()
    history.to_parquet(place / HISTORY, index=False)
    return {
        "method": work.method.name,
        "num_pairs": num_pairs,
        "final_loss": found.history[-1]["loss"],
        "device": describe(),
        "peak_bytes": peak.host_bytes,
        "peak_card_bytes": peak.card_bytes,
    }


def _earlier(ref: Ref, work: Distillation, train: Split, encoder: ImageEncoder) -> PairSet:
    """Return the set that this one begins with. An imported one is told by its nearest captions
    where it comes from.
    """
    from tasks.core.distillation.earlier_pairs import CAPTION_IDX, IMAGE_IDX, check_alike
    from tasks.core.training.pair_files import load_pairs
    from tasks.search import nearest

    found = load_pairs(ref.folder)
    check_alike(found, work.method.config, train, encoder)
    if IMAGE_IDX in found.provenance:
        return found
    captions = nearest(found.text_embeds, train.text_embeds)[1][:, 0]
    images = train.caption_image_idx[captions[:: work.method.config.texts_per_image]]
    places = {IMAGE_IDX: images.tolist(), CAPTION_IDX: captions.tolist()}
    return found.with_provenance({**found.provenance, **places})
