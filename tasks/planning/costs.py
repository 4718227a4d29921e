"""The scaling of `plan`: what one kind of artifact takes at the counts of a profile, from
measurements on a miniature.
"""

from __future__ import annotations

import functools
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tasks import evaluate, models
from tasks.core.data.left_out import LeftOut
from tasks.core.data.preparation import prepare as write_prepared
from tasks.core.data.storage import EMBEDDINGS
from tasks.core.evaluation.retrieval import recall
from tasks.core.foundations.file_names import IMAGES
from tasks.core.foundations.records import SPLITS, ImageCaptions, Split
from tasks.core.foundations.seeding import make_generator
from tasks.core.foundations.tensor_files import map_tensor, tensor_names
from tasks.core.networks.encoders import encode_images
from tasks.core.selection.pool import Pool, sample_captions
from tasks.core.training.embedding import embed_split as embed_whole
from tasks.core.training.epoch import parameter_groups, train_epoch
from tasks.core.training.pair_files import PAIRS
from tasks.core.training.split_pairs import SplitPairs
from tasks.device import choose_device
from tasks.planning import miniature
from tasks.planning.calibration import first_images, onward, pick, seconds_of, spread, timed
from tasks.planning.miniature import Usage, World
from tasks.search import recall_by_search
from tasks.settings import steps
from tasks.settings.params import Params, Plugin
from tasks.settings.sets import SetName
from tasks.store.artifacts import Ref

FLOAT_BYTES = 4
SAMPLED_IMAGES = 96  # decoded to time preparation
SAMPLED_CAPTIONS = (500, 2000)
MAX_ROWS = 20_000  # random features of more images are scaled up, not made
TINY_BUDGET = 2
# Of an epoch whose steps are measured: what an epoch costs beside them is shared by many more in a
# run
MEASURED_BATCHES = 4
MEASURED_SECONDS = 1.5  # that repeated work should take at least


@dataclass(frozen=True)
class Dataset:
    """The examples of a dataset, and their numbers by split. `seconds` is what listing them
    took.
    """

    rows: list[ImageCaptions]
    num_images: dict[str, int]
    num_captions: dict[str, int]
    seconds: float

    @property
    def total_images(self) -> int:
        return sum(self.num_images.values())


@dataclass(frozen=True)
class Each:
    """Seconds of embedding an image and a caption; widths of the shared space and of the caption
    embeddings.
    """

    image: float
    caption: float
    width: int
    text_dim: int


@dataclass(frozen=True)
class Scoring:
    """Seconds of scoring the validation and the test split once, under a protocol."""

    val: float
    test: float
    protocol: str

    def seconds(self, num_epochs: int, num_validations: int) -> float:
        """Return what all scorings of one student take."""
        if self.protocol == "upstream_best":
            return (min(num_epochs, 10) + 1) * (self.val + self.test) + self.test
        return min(num_epochs, num_validations) * self.val + self.test


def read_dataset(params: Params, prepared: Ref | None) -> Dataset:
    """Return the examples and how many there are; see `miniature.rows_of`."""
    rows, seconds = timed(lambda: miniature.rows_of(params, prepared))
    captions = Counter[str]()
    for row in rows:
        captions[row.split] += len(row.captions)
    images = Counter(row.split for row in rows)
    return Dataset(
        rows,
        {split: images[split] for split in SPLITS},
        {split: captions[split] for split in SPLITS},
        seconds,
    )


def prepare(params: Params, data: Dataset, folder: Path) -> Usage:
    """Return what prepare_data takes, from preparing evenly spread pictures."""
    share = {
        split: max(1, SAMPLED_IMAGES * count // data.total_images)
        for split, count in data.num_images.items()
    }
    place = folder / "sample"
    place.mkdir()
    section = params.prepare_data
    rows = pick(data.rows, share)

    def run(chosen: list[ImageCaptions]) -> float:
        return timed(
            lambda: write_prepared(
                chosen,
                place,
                image_size=section.image_size,
                max_pixels=section.max_pixels,
                left_out=LeftOut(section.max_left_out),
            )
        )[1]

    first = run(pick(data.rows, dict.fromkeys(SPLITS, 1)))
    with miniature.watch() as peak:
        seconds = run(rows)
    tables = sum(path.stat().st_size for path in place.iterdir() if path.name != IMAGES)
    shutil.rmtree(place)
    scale = data.total_images / len(rows)
    disk = data.total_images * section.image_size**2 * 3 + int(tables * scale)
    return Usage(data.seconds + first + seconds * scale, peak.host_bytes, peak.gpu_bytes, disk)


def embed(params: Params, data: Dataset, embeddings: Ref | None) -> tuple[Usage, int]:
    """Return what embed_captions takes and the width of the embeddings; an artifact that is there
    tells the width alone.
    """
    if embeddings is not None:
        return Usage(0.0), int(map_tensor(embeddings.folder / EMBEDDINGS, "embeddings").shape[1])
    plugin = params.text_encoder
    captions = [text for row in data.rows for text in row.captions]

    def run(texts: Sequence[str]) -> tuple[torch.Tensor, float]:
        return timed(lambda: plugin.module.embed(plugin.config, texts, device=choose_device()))

    with miniature.watch() as peak:
        (embeds, first), once = run(captions[:2]), run(captions[:2])[1]
        dim = embeds.shape[1]
        batch = getattr(plugin.config, "batch_size", None)
        if batch is None:
            few, many = (spread(captions, count) for count in SAMPLED_CAPTIONS)
            seconds = first + onward(
                (len(few), run(few)[1]), (len(many), run(many)[1]), len(captions)
            )
        else:
            # Encoders sort by length, so whole batches at even distances of the sorted captions are
            # like those of the run.
            ordered = sorted(captions, key=len)
            starts = spread(range(0, max(1, len(ordered) - batch + 1)), 4)
            chosen = [text for start in starts for text in ordered[start : start + batch]]
            seconds = first + max(0.0, run(chosen)[1] - once) * len(captions) / len(chosen)
    disk = len(captions) * dim * FLOAT_BYTES
    return Usage(seconds, peak.host_bytes + 2 * disk, peak.gpu_bytes, disk), dim


def start(params: Params, data: Dataset, world: World, base: Ref, once: Usage) -> Usage:
    """Return what the start artifact takes: with a frozen encoder, the features of all images.

    Args:
        base: the start artifact in `world`, which is wide.
        once: of that in the tiny world.
    """
    if not params.model.is_encoder_frozen:
        return once
    device = choose_device()
    encoder = models.load_encoder(steps.network(params), base, device)
    images = _open(params, world, base).images
    each = seconds_of(lambda: encode_images(encoder, images, device=device)) / len(images)
    extra = data.total_images * encoder.out_dim * FLOAT_BYTES
    return once.plus(seconds=each * data.total_images, host=2 * extra, disk=extra)


def step(
    params: Params,
    world: World,
    *,
    batch_size: int,
    momentum: float,
    weight_decay: float,
    start: Ref | None = None,
) -> Usage:
    """Return what one training step on real pairs takes, from whole epochs of as many batches as
    `world` has, at most four.
    """
    device, base = choose_device(), start or world.start
    encoder = models.load_encoder(steps.network(params), base, device)
    train = _open(params, world, base)
    count = max(1, min(MEASURED_BATCHES, train.num_images // batch_size))
    train = first_images(train, count * batch_size)
    model = models.new_model(steps.network(params), encoder, train.text_embeds.shape[1], "plan")
    pairs = SplitPairs(train, encoder, params.train_experts.augment, device=device)
    groups = parameter_groups(model, miniature.CALM, miniature.CALM)
    optimiser = torch.optim.SGD(
        groups, lr=miniature.CALM, momentum=momentum, weight_decay=weight_decay
    )

    def run() -> float:
        return train_epoch(
            model, pairs, optimiser, batch_size=batch_size, tau=params.model.tau, seed=0, epoch=0
        )

    with miniature.watch() as peak:
        seconds = seconds_of(run) / count
    return Usage(seconds, peak.host_bytes, peak.gpu_bytes)


def embed_split(params: Params, world: World, start: Ref | None = None) -> Each:
    """Return the seconds of embedding an image and a caption with a whole model."""
    device, base = choose_device(), start or world.start
    encoder = models.load_encoder(steps.network(params), base, device)
    train = _open(params, world, base)
    text_dim = train.text_embeds.shape[1]
    model = models.new_model(steps.network(params), encoder, text_dim, "plan")
    few = first_images(train, 2)
    many = replace(
        few,
        text_embeds=torch.randn(SAMPLED_CAPTIONS[1], text_dim, generator=make_generator(0, "plan")),
    )
    parts = (few, many, replace(train, text_embeds=few.text_embeds))
    basic, texts, images = (
        seconds_of(
            lambda part=part: embed_whole(model, part, encoder, device=device)  # type: ignore[misc]
        )
        for part in parts
    )
    width = embed_whole(model, few, encoder, device=device)[0].shape[1]
    image, caption = (
        (images - basic) / max(1, train.num_images - 2),
        (texts - basic) / SAMPLED_CAPTIONS[1],
    )
    return Each(max(0.0, image), max(0.0, caption), width, text_dim)


def untrained_shared(plugin: Plugin, num_images: int) -> tuple[dict[str, torch.Tensor], int]:
    """Return what a coreset method shares between its sizes, had training taught nothing, and the
    epochs that it trains.
    """
    if not hasattr(plugin.module, "prepare"):
        return {}, 0
    epochs: list[int] = []
    shared = plugin.module.prepare(
        plugin.config, num_images, lambda num_epochs, on_batch: epochs.append(num_epochs)
    )
    return shared, sum(epochs)


def coreset(
    params: Params, data: Dataset, once: Usage, each: Each, method: str, num_pairs: int
) -> Usage:
    """Return what selecting one coreset takes: features of all training pairs, and the selection
    among random ones.

    Args:
        once: of a selection from a few pairs.
    """
    images, texts = data.num_images["train"], data.num_captions["train"]
    plugin, draw = params.coresets[method], make_generator(params.seed, "plan")
    rows = min(images, MAX_ROWS)
    features = torch.nn.functional.normalize(torch.randn(rows, each.width, generator=draw), dim=1)
    pool = Pool(torch.arange(rows), features, features, untrained_shared(plugin, rows)[0])
    owners = torch.arange(images).repeat_interleave(max(1, texts // images))
    drawing = timed(lambda: sample_captions(torch.arange(images), owners, draw))[1]
    selecting = (
        timed(lambda: plugin.module.select(plugin.config, pool, min(num_pairs, rows), draw))[1]
        * images
        / rows
    )
    one_pair = (3 * params.prepare_data.image_size**2 + each.text_dim) * FLOAT_BYTES
    return once.plus(
        seconds=selecting + drawing + images * each.image + texts * each.caption,
        host=2 * (images + texts) * each.width * FLOAT_BYTES,
        disk=(num_pairs - TINY_BUDGET) * one_pair,
    )


def scoring(params: Params, data: Dataset, each: Each) -> Scoring:
    """Return what scoring a split takes: embedding it, and Recall@K of random embeddings of its
    size.
    """
    seconds = []
    for split, score in (("val", recall), ("test", recall_by_search)):
        images, texts = data.num_images[split], data.num_captions[split]
        draw = make_generator(params.seed, "plan", split)
        img, txt = (
            torch.nn.functional.normalize(torch.randn(count, each.width, generator=draw), dim=1)
            for count in (images, texts)
        )
        owners = torch.arange(texts) * images // texts
        parts = (img, txt, owners)
        scored = seconds_of(functools.partial(score, *parts))
        seconds.append(images * each.image + texts * each.caption + scored)
    return Scoring(seconds[0], seconds[1], params.evaluate.protocol)


def repeated(run: Callable[[int], tuple[Ref, Usage]], count: int) -> tuple[Ref, Usage]:
    """Return the artifact and the usage of work that repeats `count` times. It is done once and a
    few times, twice each: the first time pays for what a process pays once. The few are scaled up,
    and so is whatever disturbs them: of two looks at each the lesser counts, unless the work is
    long. Work so long that it cannot be repeated is multiplied.
    """
    ref, first = run(1)
    if count == 1 or first.seconds > 20 * MEASURED_SECONDS:
        return ref, first.plus(seconds=(count - 1) * first.seconds)
    again = run(1)[1]
    looks = 2 if again.seconds < 3 * MEASURED_SECONDS else 1
    again = min([again, *(run(1)[1] for _ in range(1, looks))], key=lambda usage: usage.seconds)
    is_long = again.seconds > 0.5 * MEASURED_SECONDS
    more = 1 if is_long else min(count - 1, int(5 * MEASURED_SECONDS / again.seconds))
    ref, last = min((run(1 + more) for _ in range(looks)), key=lambda made: made[1].seconds)
    each = max(0.0, last.seconds - again.seconds) / more
    return ref, highest(again, last).plus(seconds=(count - 1) * each)


def student(
    params: Params, world: World, start: Ref, pairs: Ref, name: str, scoring: Scoring
) -> tuple[Ref, Usage]:
    """Return the scores and the usage of one student of a small set."""
    recipe = params.evaluate.small
    ref, usage = repeated(
        lambda count: scored(params, world, start, pairs, name, num_epochs=count), recipe.num_epochs
    )
    return ref, usage.plus(seconds=scoring.seconds(recipe.num_epochs, recipe.num_validations))


def scored(
    params: Params, world: World, start: Ref, pairs: Ref, name: str, *, num_epochs: int
) -> tuple[Ref, Usage]:
    """Return the scores of one student that trains for `num_epochs` and is validated once, and what
    it took.
    """
    short = replace(
        params.evaluate,
        small=replace(params.evaluate.small, num_epochs=num_epochs, num_validations=1),
    )
    work = steps.evaluation(replace(params, evaluate=short), SetName.parse(name))
    return world.make(evaluate.train_student, work, world.inputs(start), pairs, 0)


def is_soft(pairs: Ref) -> bool:
    """Whether a set carries a similarity: its students then train with another loss."""
    return any(name.startswith("sim_") for name in tensor_names(pairs.folder / PAIRS))


def highest(first: Usage, second: Usage) -> Usage:
    """Return the first usage with the higher memory of both."""
    return replace(
        first,
        host_bytes=max(first.host_bytes, second.host_bytes),
        gpu_bytes=max(first.gpu_bytes, second.gpu_bytes),
    )


def _open(params: Params, world: World, start: Ref) -> Split:
    return models.open_split(steps.network(params), world.inputs(start), "train")
