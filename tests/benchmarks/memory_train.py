"""Does memory of training experts grow with the number of images? At N and at 4 N toy images, each
in a process of its own.

Run: python -m tests.benchmarks.memory_train [--images N] [--experts E]. The model and the settings
are those of the profile `toy`; caption embeddings are drawn instead of computed. A process trains E
experts one after the other for one epoch each and stores them, as the stage does. "peak" is its
largest resident set, file pages mapped from the page cache included; "private" (anonymous resident
memory, Linux only) leaves those out and is taken at the end, with the split, the model and the
snapshots still held.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path
from typing import Any

import torch

from tasks.core.data.storage import EMBEDDINGS, load_split
from tasks.core.foundations.seeding import derive_seed, make_generator
from tasks.core.foundations.tensor_files import save_tensors
from tasks.core.networks.dual_encoder import build_dual_encoder
from tasks.core.networks.functional import FlatModel
from tasks.core.networks.image_encoders import timm as image_encoders
from tasks.core.training.augment import AugmentSection
from tasks.core.training.experts import ExpertSection, save_snapshots, train_expert
from tasks.core.training.split_pairs import SplitPairs
from tests.benchmarks.memory_prepare import FACTOR, measure, prepare_images, private_mib

CAPTIONS_PER_IMAGE, EMBEDDING_DIM, TAU, SEED = 5, 256, 0.07, 0
NETWORK = image_encoders.Config(
    name="test_nfnet",
    weights="random",
    kwargs={"stem_type": "3x3_pool", "extra_conv": False},
    mean=None,
    std=None,
)
NO_AUGMENT = AugmentSection(crop_scale=1.0, flip=False, randaugment_ops=0, randaugment_magnitude=0)


def prepare_files(folder: Path, num_images: int) -> None:
    """Write prepared images (one more for val and test each) and drawn caption embeddings into
    `folder`.
    """
    prepare_images(folder, num_images)
    embeds = torch.randn(
        (num_images + 2) * CAPTIONS_PER_IMAGE,
        EMBEDDING_DIM,
        generator=make_generator(SEED, "embeddings"),
    )
    save_tensors(folder / EMBEDDINGS, {"embeddings": embeds})


def train_experts(folder: Path, num_experts: int) -> Any:
    """Train and store experts; return what training still holds, so that it counts."""
    section = ExpertSection(
        num_experts=num_experts,
        num_epochs=1,
        coreset_epochs=1,
        batch_size=16,
        lr_img=0.02,
        lr_txt=0.2,
        momentum=0.0,
        storage="float32",
        augment=NO_AUGMENT,
    )
    held: Any = None
    for index in range(num_experts):
        encoder = image_encoders.build(NETWORK, seed=SEED)
        split = load_split(folder, folder, "train")
        model = build_dual_encoder(
            encoder.module,
            out_dim=encoder.out_dim,
            text_dim=EMBEDDING_DIM,
            trainable="full",
            embed_dim=None,
            dropout=0.1,
            seed=index,
        )
        pairs, start = (
            SplitPairs(split, encoder, NO_AUGMENT, device=torch.device("cpu")),
            {"img": FlatModel(model).flatten()["img"]},
        )
        seed = derive_seed(SEED, "expert", index)
        snapshots, losses = train_expert(
            model, pairs, section, tau=TAU, seed=seed, is_start_shared=True, index=index
        )
        (folder / f"expert_{index:03d}").mkdir()
        save_snapshots(
            folder / f"expert_{index:03d}", snapshots, storage=section.storage, shared=start
        )
        held = model, pairs, snapshots, losses
    return held


def main() -> None:
    """Print both measurements at both sizes, and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--experts", type=int, default=1)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        held = train_experts(options.folder, options.experts)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, private_mib())
        del held
        return
    measured = []
    for count in (options.images, FACTOR * options.images):
        with tempfile.TemporaryDirectory() as name:
            prepare_files(Path(name), count)
            measured.append(
                measure(
                    "tests.benchmarks.memory_train", "--folder", name, "--experts", options.experts
                )
            )
    (peak, private), (peak_more, private_more) = measured
    print(
        f"train {options.experts} experts: {options.images} images {peak:.0f} MiB peak, "
        f"{FACTOR * options.images} images "
        f"{peak_more:.0f} MiB peak, ratio {peak_more / peak:.3f}; private {private:.0f} and "
        f"{private_more:.0f} MiB, "
        f"ratio {private_more / private:.3f}"
    )


if __name__ == "__main__":
    main()
