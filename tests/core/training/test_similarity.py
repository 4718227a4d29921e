"""The soft similarity starts as the identity, takes the rows of a batch, survives the disk, and
gives the loss of a set.
"""

import pytest
import torch
from torch.nn import functional

from tasks.core.foundations.seeding import make_generator
from tasks.core.training.losses import info_nce
from tasks.core.training.pair_files import load_pairs, save_pairs
from tasks.core.training.pair_set import PairSet, Similarity
from tasks.core.training.similarity import initial_rows, set_loss, similarity_of
from tasks.core.training.student_losses import soft_contrastive

PAIRS, RANK = 6, 2


def _draw(name, *shape):
    return torch.randn(*shape, generator=make_generator(0, name), dtype=torch.float64)


def _pairs(loss, similarity):
    images, texts = _draw("x", PAIRS, 3, 4, 5).float(), _draw("y", PAIRS, 7).float()
    return PairSet(images, texts, (0.5,) * 3, (0.5,) * 3, similarity=similarity, loss=loss)


def _soft():
    return Similarity(
        _draw("a", PAIRS), _draw("l", PAIRS, RANK), _draw("r", PAIRS, RANK), alpha=3.0
    )


def test_it_starts_as_the_identity():
    rows = initial_rows(PAIRS, RANK, make_generator(0))
    assert (
        torch.equal(similarity_of(rows, 3.0), torch.eye(PAIRS))
        and float(rows["sim_left"].std()) > 0.3
    )


@pytest.mark.parametrize("loss", ["ence", "bce", "wbce"])
def test_a_batch_is_trained_with_its_block_of_the_whole_similarity(loss):
    soft, rows = _soft(), torch.tensor([4, 0, 3])
    img, txt = (functional.normalize(_draw(name, 3, 5), dim=1) for name in "it")
    whole = torch.diag(soft.diagonal) + 3.0 / RANK * soft.left @ soft.right.T
    expected = soft_contrastive(loss, img, txt, whole[rows][:, rows], tau=0.2)
    assert float(set_loss(_pairs(loss, soft), 0.2)(img, txt, rows)) == pytest.approx(
        float(expected), rel=1e-12
    )


@pytest.mark.parametrize(
    ("loss", "include_positive"), [("info_nce", True), ("info_nce_without_positive", False)]
)
def test_a_set_without_similarity_is_trained_with_info_nce(loss, include_positive):
    img, txt = (functional.normalize(_draw(name, 3, 5), dim=1) for name in "it")
    expected = info_nce(img, txt, tau=0.2, include_positive=include_positive)
    for similarity in (None, _soft()):
        assert torch.equal(
            set_loss(_pairs(loss, similarity), 0.2)(img, txt, torch.arange(3)), expected
        )


def test_the_loss_and_the_similarity_survive_the_disk(tmp_path):
    pairs = _pairs("wbce", _soft())
    save_pairs(tmp_path, pairs)
    again = load_pairs(tmp_path)
    assert (
        again.loss == "wbce"
        and again.similarity is not None
        and torch.equal(again.similarity.left, pairs.similarity.left)
    )


def test_a_soft_loss_without_similarity_and_unknown_losses_are_refused():
    with pytest.raises(
        ValueError, match=r"received 'wbce' without a similarity; allowed are info_nce"
    ):
        _pairs("wbce", None)
    with pytest.raises(
        ValueError, match=r"received 'mse' with a similarity; .* with a similarity ence, bce, wbce"
    ):
        _pairs("mse", _soft())
    short = Similarity(torch.ones(5), torch.ones(5, 2), torch.ones(5, 2), 1.0)
    with pytest.raises(ValueError, match=r"received \[5\] rows for 6 images"):
        _pairs("wbce", short)
