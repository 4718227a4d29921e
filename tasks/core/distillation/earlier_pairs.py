"""Goes on from a finished set: its pairs are the first of the new one, in their order (METHOD 4).

The other pairs start as `initialisation.py` says, from real pairs that the finished set does not
come from. `earlier_lr_scale` slows the first ones, see `outer_state.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from tasks.core.distillation.initialisation import InitialPairs
from tasks.core.distillation.matching_config import MatchingConfig, OuterConfig
from tasks.core.distillation.objective import Learnable, Objective
from tasks.core.foundations.records import Split
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.training.pair_set import PairSet, Similarity

IMAGE_IDX, CAPTION_IDX = "image_idx", "caption_idx"  # of the provenance of a distilled set
_MEND = "change `begin_with` or the method's options in params.yaml"

Options = TypeVar("Options", bound=OuterConfig)


def check_alike(earlier: PairSet, config: OuterConfig, train: Split, encoder: ImageEncoder) -> None:
    """Raise ValueError when the pairs of a set are of another form than those that are asked for.

    Args:
        train: gives the size of pictures and texts.
        encoder: gives the normalisation.
    """
    _, height, width, channels = train.images.shape
    if config.picture_size is not None:
        height = width = config.picture_size
    forms = {
        "pictures": (tuple(earlier.images.shape[1:]), (channels, height, width)),
        "mean": (earlier.mean, encoder.mean),
        "std": (earlier.std, encoder.std),
        "numbers of a text": (earlier.text_embeds.shape[1], train.text_embeds.shape[1]),
        "texts_per_image": (_texts_per_image(earlier), config.texts_per_image),
        "parts": (earlier.parts, config.parts),
        "storage": (earlier.storage, config.storage),
    }
    if earlier.log_weights is not None and getattr(config, "weights", "none") == "none":
        forms["weights"] = ("of its own", "none")

    for name, (received, allowed) in forms.items():
        if received != allowed:
            raise ValueError(
                f"begin_with: received a set of {name} {received}; allowed is {allowed}, as of the "
                f"set that begins with it; {_MEND}"
            )


def num_further(earlier: PairSet | None, size: int) -> int:
    """Return how many pairs a set of `size` has beside the earlier ones.

    Raises:
        ValueError: there are more earlier ones.
    """
    count = earlier.num_pairs if earlier else 0
    if count > size:
        raise ValueError(
            f"begin_with: received a set of {count} pairs for one of {size}; allowed is one of at "
            f"most {size}; {_MEND}"
        )
    return size - count


def pairs_of(earlier: PairSet) -> InitialPairs:
    """Return the pairs of a finished set as those that another starts from."""
    images, texts = (torch.tensor(earlier.provenance[name]) for name in (IMAGE_IDX, CAPTION_IDX))
    return InitialPairs(earlier.images, earlier.text_embeds, images, texts, earlier.log_weights)


def joined(first: InitialPairs, further: InitialPairs) -> InitialPairs:
    """Return pairs one after the other. Those without weights have equal ones."""
    weights = None
    if first.log_weights is not None or further.log_weights is not None:
        weights = torch.cat([_log_weights(first), _log_weights(further)])
    return InitialPairs(
        torch.cat([first.images, further.images]),
        torch.cat([first.text_embeds, further.text_embeds]),
        torch.cat([first.image_idx, further.image_idx]),
        torch.cat([first.caption_idx, further.caption_idx]),
        weights,
    )


def with_step_sizes(earlier: PairSet | None, config: Options) -> Options:
    """Return options whose students begin with the step sizes that the earlier set learned."""
    sizes = earlier.step_sizes if earlier else None
    if sizes is None or not isinstance(config, MatchingConfig):
        return config
    return replace(config, step_size_img=sizes["img"], step_size_txt=sizes["txt"])


def learnable_with(earlier: PairSet | None, objective: Objective) -> dict[str, Learnable]:
    """Return the further tensors of a method, with what the earlier set learned in their first
    rows. Without a similarity there they stay as they are.

    Raises:
        ValueError: the earlier set has a similarity, and the method learns one of another form, or
            none.
    """
    learnable = objective.learnable
    if earlier is None or earlier.similarity is None:
        return learnable
    ours = None
    if objective.similarity:
        ours = objective.similarity({name: value.initial for name, value in learnable.items()})
    received, allowed = _form(earlier.similarity), _form(ours)
    if received != allowed:
        raise ValueError(
            f"begin_with: received a set with {received}; allowed is {allowed}, as the method "
            f"learns it; {_MEND}"
        )
    found = {}
    for name, value in learnable.items():
        rows = earlier.similarity.rows[name]
        found[name] = replace(value, initial=torch.cat([rows, value.initial[len(rows) :]]))
    return found


def _log_weights(pairs: InitialPairs) -> Tensor:
    weights = pairs.log_weights
    return torch.zeros(len(pairs.image_idx)) if weights is None else weights


def _form(similarity: Similarity | None) -> str:
    if similarity is None:
        return "no similarity"
    return f"a similarity of rank {similarity.left.shape[1]} and alpha {similarity.alpha:g}"


def _texts_per_image(pairs: PairSet) -> int | str:
    if pairs.text_image_idx is None:
        return 1
    counts = torch.bincount(pairs.text_image_idx).unique()
    return int(counts) if len(counts) == 1 else "of different numbers"
