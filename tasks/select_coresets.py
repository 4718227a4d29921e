"""select_coresets: chooses real pairs by each method, in the space of an expert that has seen the
data (METHOD 7).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks import keys
from tasks.device import choose_device
from tasks.keys import Inputs
from tasks.progress import reporter
from tasks.settings.steps import Network, Selection
from tasks.step import step
from tasks.store import caching
from tasks.store.artifacts import Ref

SHARED = "shared.safetensors"


@step("{work.set_name}")
def select_coreset(
    work: Selection, inputs: Inputs, warm: Ref, *, force: bool = False, accept_code: bool = False
) -> Ref:
    """Return `data/coresets/<profile>/<method>-<num_pairs>`, a PairSet of real pairs.

    Args:
        warm: expert_000. Pairs are selected in its space after `train_experts.coreset_epochs`
            epochs.
    """
    how: Any = {"force": force, "accept_code": accept_code}
    shared = make_shared(work, inputs, **how) if hasattr(work.method.module, "prepare") else None
    return caching.obtain(
        work.folder,
        keys.of_coreset(work, inputs, warm, shared),
        lambda place: _select(work, inputs, warm, shared, place),
        **how,
    )


def make_shared(work: Selection, inputs: Inputs, **how: Any) -> Ref:
    """Return what a method computes once for all budgets (forgetting counts), an artifact of its
    own; only for methods with `prepare`.
    """

    def build(place: Path) -> dict[str, Any]:
        from tasks.core.foundations.tensor_files import save_tensors

        save_tensors(place / SHARED, _prepare(work, inputs))
        return {}

    folder = work.folder.with_name(f"{work.method.name}-shared")
    return caching.obtain(folder, keys.of_shared(work, inputs), build, **how)


def _prepare(work: Selection, inputs: Inputs) -> dict[str, Any]:
    from tasks.core.foundations.seeding import derive_seed
    from tasks.core.training.epoch import sgd, train_epoch
    from tasks.core.training.split_pairs import SplitPairs
    from tasks.models import load_encoder, new_model, open_split

    device, section, network, method = choose_device(), work.experts, work.network, work.method
    encoder = load_encoder(network, inputs.start, device)
    train = open_split(network, inputs, "train")
    # One caption an image at every epoch: what is counted are the pairs that may be selected
    caption_idx = _caption_idx(network, train)
    pairs = SplitPairs(train, encoder, section.augment, device=device, caption_idx=caption_idx)

    def run(num_epochs: int, on_batch: Any) -> None:
        model = new_model(network, encoder, train.text_embeds.shape[1], method.name)
        optimiser = sgd(model, section.lr_img, section.lr_txt, momentum=section.momentum)
        seed = derive_seed(network.seed, method.name)
        report = reporter(f"select_coresets {method.name}, training")
        for epoch in range(num_epochs):
            train_epoch(
                model,
                pairs,
                optimiser,
                batch_size=section.batch_size,
                tau=network.model.tau,
                seed=seed,
                epoch=epoch,
                on_batch=on_batch,
            )
            report(epoch + 1, num_epochs)

    found: dict[str, Any] = method.module.prepare(method.config, train.num_images, run)
    return found


def _select(
    work: Selection, inputs: Inputs, warm: Ref, shared: Ref | None, place: Path
) -> dict[str, Any]:
    from tasks.core.distillation.buffer import Buffer
    from tasks.core.foundations.seeding import make_generator
    from tasks.core.foundations.tensor_files import load_tensors
    from tasks.core.networks.functional import FlatModel
    from tasks.core.selection.pool import Pool, check_budget
    from tasks.core.selection.real_bytes import RealBytes
    from tasks.core.training.embedding import embed_split
    from tasks.core.training.pair_files import save_pairs
    from tasks.core.training.pair_set import PairSet
    from tasks.models import load_encoder, new_model, open_split

    device, network, method = choose_device(), work.network, work.method
    report = reporter(f"select_coresets {work.set_name}")
    num_pairs, epochs = work.set_name.num_pairs, work.experts.coreset_epochs
    assert num_pairs
    encoder = load_encoder(network, inputs.start, device)
    train = open_split(network, inputs, "train")
    check_budget(num_pairs, train.num_images)
    # Any model of this form: the snapshot of the expert replaces all its parameters
    model = new_model(network, encoder, train.text_embeds.shape[1], "expert", 0)
    flat = FlatModel(model)
    buffer = Buffer([warm.folder], flat.flatten(), device=flat.device)
    # Pairs are selected where the data are known a little, and before experts differ much
    flat.load(buffer.snapshot(0, epochs))
    image_features, text_features = embed_split(model, train, encoder, device=device)
    report(1, 2)
    caption_idx = _caption_idx(network, train)
    found = load_tensors(shared.folder / SHARED) if shared else {}
    real = RealBytes(train)
    pool = Pool(caption_idx, image_features, text_features[caption_idx], found, real)
    draw = make_generator(network.seed, "coreset", method.name, num_pairs)
    chosen = method.module.select(method.config, pool, num_pairs, draw)
    images = encoder.take(train.images, chosen.image_idx)
    pairs = PairSet(
        images=images.contiguous(),
        text_embeds=train.text_embeds[chosen.caption_idx],
        mean=encoder.mean,
        std=encoder.std,
        provenance={
            "method": method.name,
            "profile": network.profile,
            "image_idx": chosen.image_idx.tolist(),
            "caption_idx": chosen.caption_idx.tolist(),
            "features": f"{network.name}, expert 0 after {epochs} epochs",
        },
        text_image_idx=chosen.text_image_idx,
        real_bytes=real.total(chosen.image_idx, chosen.caption_idx),
    )
    report(2, 2)
    save_pairs(place, pairs)
    return {"method": method.name, "num_pairs": num_pairs}


def _caption_idx(network: Network, train: Any) -> Any:
    """Return one caption per image, the same for all methods that select."""
    import torch

    from tasks.core.foundations.seeding import make_generator
    from tasks.core.selection.pool import sample_captions

    draw = make_generator(network.seed, "coreset_captions")
    return sample_captions(torch.arange(train.num_images), train.caption_image_idx, draw)
