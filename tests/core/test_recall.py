"""Recall@K equals a naive ranking with ragged captions, for any chunk size, and refuses bad input."""

import numpy as np
import pytest
import torch

from tasks.core.retrieval import recall
from tasks.core.seeding import make_generator


def _embeddings():
    owner = torch.arange(17).repeat_interleave(torch.tensor([5, 6, 7, 1, 5] * 3 + [2, 5]))
    image = torch.nn.functional.normalize(torch.randn(17, 6, generator=make_generator(0), dtype=torch.float64), dim=1)
    text = torch.nn.functional.normalize(image[owner] + torch.randn(len(owner), 6, generator=make_generator(1), dtype=torch.float64), dim=1)
    shuffled = torch.randperm(len(owner), generator=make_generator(2))
    return image, text[shuffled], owner[shuffled]


def _naive(image, text, owner, k):
    scores = (image @ text.T).numpy()
    top_texts, top_images = np.argsort(-scores, axis=1)[:, :k], np.argsort(-scores.T, axis=1)[:, :k]
    i2t = np.mean([any(owner[j] == i for j in row) for i, row in enumerate(top_texts)])
    t2i = np.mean([owner[j] in row for j, row in enumerate(top_images)])
    return 100 * i2t, 100 * t2i


@pytest.mark.parametrize("chunk_rows", [1, 4, 17, 512])
def test_recall_equals_naive_ranking(chunk_rows):
    image, text, owner = _embeddings()
    found = recall(image, text, owner, chunk_rows=chunk_rows)
    for k in (1, 5, 10):
        assert (found[f"i2t_r{k}"], found[f"t2i_r{k}"]) == pytest.approx(_naive(image, text, owner, k))
    assert found["mean_recall"] == pytest.approx(sum(v for n, v in found.items() if n != "mean_recall") / 6)


def test_non_finite_embeddings_and_images_without_captions_are_refused():
    image, text, owner = _embeddings()
    with pytest.raises(ValueError, match="text_embeds has non-finite"):
        recall(image, text * float("inf"), owner)
    with pytest.raises(ValueError, match="each of the 17 images"):
        recall(image, text, owner.clamp(max=15))
