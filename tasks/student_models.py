"""Trains a student from references to artifacts, or scores linear heads, and opens what they need
beside `models.py`: encoders at another size, and sets as a student sees them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from tasks.core.data.storage import load_split
from tasks.core.evaluation import students
from tasks.core.evaluation.augmented import NUM_VIEWS, AugmentedPairs, augmented
from tasks.core.evaluation.ceilings import LinearHeads, best_heads
from tasks.core.evaluation.students import Outcome
from tasks.core.evaluation.transfer import at_size, transfer
from tasks.core.foundations.records import SPLITS, Split
from tasks.core.foundations.seeding import derive_seed, make_generator
from tasks.core.networks.dual_encoder import DualEncoder
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.networks.precision import products
from tasks.core.training.embedding import embed_split
from tasks.core.training.epoch import Pairs
from tasks.core.training.pair_files import Size, load_pairs, size_of
from tasks.core.training.pair_set import PairSet, SetPairs
from tasks.core.training.similarity import set_loss
from tasks.core.training.split_pairs import SplitPairs
from tasks.device import choose_device
from tasks.keys import Inputs
from tasks.models import Place, load_encoder, load_encoder_of, new_model, open_split
from tasks.progress import reporter
from tasks.search import nearest, recall_by_search
from tasks.settings.sets import AUGMENTED, DECODED, PLAIN
from tasks.settings.steps import Evaluation, Network
from tasks.store.artifacts import Ref

BATCH_SIZE = 64  # images that the frozen encoder sees at once


@dataclass(frozen=True)
class Student:
    """A trained student.

    Attributes:
        model: the dual encoder, with the weights of the chosen epoch.
        encoder: its image encoder.
        splits: `train`, `val` and `test`, as the student sees them.
        num_pairs: pictures that it was trained on.
        size: of the set.
    """

    outcome: Outcome
    num_pairs: int
    size: Size
    model: DualEncoder = field(repr=False)
    encoder: ImageEncoder = field(repr=False)
    splits: dict[str, Split] = field(repr=False)

    def score(self, split: str) -> dict[str, float]:
        """Return Recall@K of a split in percent, see `core/evaluation/retrieval.py`.

        Raises:
            ValueError: there is no such split.
        """
        if split not in self.splits:
            raise ValueError(f"received the split {split!r}; allowed: {', '.join(self.splits)}")
        shown, device = self.splits[split], next(self.model.parameters()).device
        embeds = embed_split(self.model, shown, self.encoder, device=device)
        return recall_by_search(*embeds, shown.caption_image_idx)


def train_student(work: Evaluation, inputs: Inputs, pairs: Ref | None, seed_idx: int) -> Student:
    """Train a fresh student and score it (METHOD 8).

    Where `work.set_name` has an ending, the set is first changed by `in_words` or `plain`, or its
    pictures are augmented.

    Args:
        work: what `evaluate` is told.
        inputs: with the start of the same network.
        pairs: a coreset, distilled or imported artifact; None trains on the full data.
        seed_idx: number of the student; the profile's seed and it give all its randomness.
    """
    device, section, network = choose_device(), work.section, work.network
    tau = network.model.tau
    encoder = load_student_encoder(network, inputs.start, device)
    splits = {split: open_split(network, inputs, split) for split in ("train", "val", "test")}
    source: Pairs
    # Real data bring no step sizes and no loss of their own
    step_sizes, loss_fn, recipe = None, None, section.full
    if pairs is None:
        source = SplitPairs(splits["train"], encoder, work.augment, device=device)
        size = Size(len(splits["train"].captions), None, 8)
    else:
        stored, features, size = open_pairs(network, inputs.start, pairs, device)
        if work.set_name.ending == DECODED:
            stored = in_words(stored, splits["train"])
        elif work.set_name.ending == PLAIN:
            stored = plain(stored)
        source = SetPairs(stored, device=device, features=features)
        if work.set_name.ending == AUGMENTED:
            source = AugmentedPairs(source, open_views(network, inputs.start, pairs, device))
        step_sizes, loss_fn, recipe = stored.step_sizes, set_loss(stored, tau), section.small
    text_dim = splits["train"].text_embeds.shape[1]
    model = new_model(network, encoder, text_dim, "student", seed_idx)
    outcome = students.train_student(
        model,
        source,
        recipe,
        step_sizes=step_sizes,
        protocol=section.protocol,
        encoder=encoder,
        val=splits["val"],
        test=splits["test"],
        score=recall_by_search,
        tau=tau,
        seed=derive_seed(network.seed, "student", seed_idx),
        loss_fn=loss_fn,
        progress=reporter(f"evaluate {work.set_name} seed {seed_idx}"),
    )
    return Student(outcome, source.num_pairs, size, model, encoder, splits)


def score_ceiling(work: Evaluation, inputs: Inputs, images: Ref | None) -> tuple[Outcome, int]:
    """Score linear heads of the full data in closed form (`core/evaluation/ceilings.py`).

    Args:
        work: names one of `sets.ceilings`.
        inputs: with the start of the same network, of a frozen encoder.
        images: a coreset in the span of its images; None for any pairs of `work.set_name`.

    Returns:
        The scores, with the validation recall as a curve of one point, and the number of training
        images.
    """
    train, val, test = (open_split(work.network, inputs, split) for split in SPLITS)
    assert train.features is not None, "the image encoder is frozen"
    refs = (inputs.prepared, inputs.embeddings, inputs.start)
    heads = _best_heads(*(Place(ref.digest, ref.folder) for ref in refs))
    if images is not None:
        rows = load_pairs(images.folder).provenance["image_idx"]
        heads = heads.within(train.features[rows])
    elif work.set_name.num_pairs is not None:
        heads = heads.of_rank(work.set_name.num_pairs - 1)
    on_val = heads.score(val)
    row = {"epoch": 0.0, "loss": math.nan, "val_mean_recall": on_val["mean_recall"]}
    return Outcome(heads.score(test, recall_by_search), on_val, 0, [row]), train.num_images


# The ceilings of a profile come one after the other
@functools.lru_cache(maxsize=1)
def _best_heads(prepared: Place, embeddings: Place, start: Place) -> LinearHeads:
    """Return the best linear heads of the full data."""
    train, val = (
        load_split(prepared.folder, embeddings.folder, split, start.folder)
        for split in ("train", "val")
    )
    return best_heads(train, val)


def in_words(pairs: PairSet, train: Split) -> PairSet:
    """Return a set with the embedding of the nearest training sentence in place of each text.

    Images, similarity, step sizes and loss stay. The nearest sentence has the largest cosine, as in
    the gallery.
    """
    _, sentences = nearest(pairs.text_embeds, train.text_embeds)
    # Real embeddings are float32, whatever precision the set's own texts are stored in
    words = train.text_embeds[sentences[:, 0]]
    return replace(pairs, text_embeds=words, storage="float32")


def plain(pairs: PairSet) -> PairSet:
    """Return a set without what it learned for its students: identity similarity, equal weights,
    InfoNCE, and the step sizes of the recipe.
    """
    return replace(pairs, similarity=None, log_weights=None, step_sizes=None, loss="info_nce")


def load_student_encoder(network: Network, start: Ref, device: torch.device) -> ImageEncoder:
    """Return the encoder of the student, behind a resize when it takes images of another size."""
    return at_size(load_encoder(network, start, device), network.input_size)


def open_pairs(
    network: Network, start: Ref, pairs: Ref, device: torch.device
) -> tuple[PairSet, Tensor | None, Size]:
    """Return a set as the student with `network` sees it, its features, and its size as stored.

    Features (num_images, F) lie on `device`; they are None when the encoder is trained. Nobody may
    change set or features, which later students share. A further student sees the set as `transfer`
    changes it.
    """
    return _open_pairs(*_places(network, start, pairs), device, *_seen(network))


def open_views(network: Network, start: Ref, pairs: Ref, device: torch.device) -> Tensor | None:
    """Return features (V, num_images, F) of random crops of a set's images, on `device`; None when
    the encoder is trained.

    They are random by the profile's seed, and the same for all students of the set.
    """
    if not network.model.is_encoder_frozen:
        return None
    return _open_views(*_places(network, start, pairs), device, _seen(network), network.seed)


def _places(network: Network, start: Ref, pairs: Ref) -> tuple[Place, Place]:
    encoder = Place(start.digest, start.folder, network.image_encoder)
    return Place(pairs.digest, pairs.folder), encoder


def _seen(network: Network) -> tuple[bool, bool, int | None]:
    """Return what decides how a network sees a set."""
    return network.model.is_encoder_frozen, network.is_further, network.input_size


# The students of a set come one after the other
@functools.lru_cache(maxsize=1)
def _open_pairs(
    pairs: Place,
    start: Place,
    device: torch.device,
    is_frozen: bool,
    is_transferred: bool,
    input_size: int | None,
) -> tuple[PairSet, Tensor | None, Size]:
    encoder = at_size(load_encoder_of(start, device), input_size)
    stored = load_pairs(pairs.folder)
    # Before it is resized for another encoder: the set is as large as it is stored
    size = size_of(stored)
    if is_transferred:
        stored = transfer(stored, encoder, input_size)
    if not is_frozen:
        return stored, None, size
    return stored, _encoded(encoder, stored.student_images(), device), size


@functools.lru_cache(maxsize=1)
def _open_views(
    pairs: Place,
    start: Place,
    device: torch.device,
    seen: tuple[bool, bool, int | None],
    seed: int,
) -> Tensor:
    stored, _, _ = _open_pairs(pairs, start, device, *seen)
    encoder, images = at_size(load_encoder_of(start, device), seen[-1]), stored.student_images()
    views = []
    for number in range(NUM_VIEWS):
        crops = augmented(images, make_generator(seed, "view", number))
        views.append(_encoded(encoder, crops, device))
    return torch.stack(views)


def _encoded(encoder: ImageEncoder, images: Tensor, device: torch.device) -> Tensor:
    """Return the features (B, F) of images under a frozen encoder."""
    with torch.no_grad(), products("float32"):
        parts = [
            encoder.module(part.contiguous(memory_format=torch.channels_last).to(device))
            for part in images.split(BATCH_SIZE)
        ]
    return torch.cat(parts)
