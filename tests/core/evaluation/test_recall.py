"""Recall@K equals a naive ranking with ragged captions and ties, for any chunk size, and refuses
bad input.
"""

import itertools

import numpy as np
import pytest
import torch

from tasks.core.evaluation.retrieval import MANY_PAIRS, pair_scores, recall, score_margin, ties
from tasks.core.foundations.seeding import make_generator


def _embeddings():
    owner = torch.arange(17).repeat_interleave(torch.tensor([5, 6, 7, 1, 5] * 3 + [2, 5]))
    image = torch.nn.functional.normalize(
        torch.randn(17, 6, generator=make_generator(0), dtype=torch.float64), dim=1
    )
    text = torch.nn.functional.normalize(
        image[owner] + torch.randn(len(owner), 6, generator=make_generator(1), dtype=torch.float64),
        dim=1,
    )
    shuffled = torch.randperm(len(owner), generator=make_generator(2))
    return image, text[shuffled], owner[shuffled]


def _small_integers(seed, num_images=7, num_texts=11, width=3):
    """Embeddings whose scores are integers: exact in any arithmetic, and often equal."""
    generator = make_generator(seed)
    owner = torch.cat(
        [
            torch.arange(num_images),
            torch.randint(num_images, (num_texts - num_images,), generator=generator),
        ]
    )
    owner = owner[torch.randperm(num_texts, generator=generator)]
    image, text = (
        torch.randint(-1, 2, (rows, width), generator=generator).float()
        for rows in (num_images, num_texts)
    )
    return image, text, owner


def _naive(image, text, owner, k):
    scores = (image @ text.T).numpy()
    top_texts, top_images = np.argsort(-scores, axis=1)[:, :k], np.argsort(-scores.T, axis=1)[:, :k]
    i2t = np.mean([any(owner[j] == i for j in row) for i, row in enumerate(top_texts)])
    t2i = np.mean([owner[j] in row for j, row in enumerate(top_images)])
    return 100 * i2t, 100 * t2i


def _hits_over_all_orders(scores, is_positive, k):
    """Return the hit of each permutation of the keys after a stable sort by score."""
    orders = itertools.permutations(range(len(scores)))
    return [
        any(is_positive[key] for key in sorted(order, key=lambda key: -scores[key])[:k])
        for order in orders
    ]


@pytest.mark.parametrize("chunk_rows", [1, 4, 17, 512])
def test_recall_equals_naive_ranking(chunk_rows):
    image, text, owner = _embeddings()
    found = recall(image, text, owner, chunk_rows=chunk_rows)
    for k in (1, 5, 10):
        assert (found[f"i2t_r{k}"], found[f"t2i_r{k}"]) == pytest.approx(
            _naive(image, text, owner, k)
        )
    assert found["mean_recall"] == pytest.approx(
        sum(v for n, v in found.items() if n != "mean_recall") / 6
    )


def test_a_hand_made_case_without_and_with_a_tie():
    image, owner = torch.eye(3)[:2], torch.tensor([0, 1, 1])
    # Caption 1 prefers the wrong image
    text = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.4, 0.0], [0.0, 0.3, 0.0]])
    assert recall(image, text, owner, ks=(1,)) == pytest.approx(
        {"i2t_r1": 100, "t2i_r1": 200 / 3, "mean_recall": 250 / 3}
    )
    report = ties(image, torch.tensor([[1.0, 1.0, 0.0]] * 3), owner, ks=(1,))  # every score is 1
    assert report.optimistic == {"i2t_r1": 100, "t2i_r1": 100, "mean_recall": 100}
    assert report.pessimistic == {"i2t_r1": 0, "t2i_r1": 0, "mean_recall": 0}
    # (1/3 + 2/3) / 2 and 1/2
    assert report.expected == pytest.approx({"i2t_r1": 50, "t2i_r1": 50, "mean_recall": 50})


@pytest.mark.parametrize("seed", range(4))
def test_tie_report_equals_the_enumeration_of_all_orders(seed):
    image, text, owner = _small_integers(seed, num_images=4, num_texts=6)
    scores = (image @ text.T).int().tolist()
    report = ties(image, text, owner, ks=(1, 2, 3), chunk_rows=3)
    for k in (1, 2, 3):
        i2t = [_hits_over_all_orders(scores[i], [int(o) == i for o in owner], k) for i in range(4)]
        t2i = [
            _hits_over_all_orders(
                [row[j] for row in scores], [i == int(owner[j]) for i in range(4)], k
            )
            for j in range(6)
        ]
        for name, hits in ((f"i2t_r{k}", i2t), (f"t2i_r{k}", t2i)):
            assert report.expected[name] == pytest.approx(
                100 * np.mean([np.mean(h) for h in hits]), abs=1e-10
            )
            assert report.optimistic[name] == pytest.approx(100 * np.mean([max(h) for h in hits]))
            assert report.pessimistic[name] == pytest.approx(100 * np.mean([min(h) for h in hits]))


@pytest.mark.parametrize("seed", range(6))
def test_many_ties_are_counted_exactly_in_any_chunk_size(seed):
    image, text, owner = _small_integers(seed, num_images=41, num_texts=97, width=4)
    scores, positive = image @ text.T, owner == torch.arange(41)[:, None]
    best = torch.where(positive, scores, -torch.inf).amax(1)
    greater = {
        "i2t": (scores > best[:, None]).sum(1),
        "t2i": (scores > scores[owner, torch.arange(97)]).sum(0),
    }
    reports = [ties(image, text, owner, chunk_rows=rows) for rows in (5, 13, 41, 1000)]
    for direction, count in greater.items():
        for k in (1, 5, 10):
            assert reports[0].optimistic[f"{direction}_r{k}"] == pytest.approx(
                100 * float((count < k).double().mean())
            )
    assert all(report == reports[0] for report in reports)
    assert (
        reports[0].pessimistic["mean_recall"]
        < reports[0].expected["mean_recall"]
        < reports[0].optimistic["mean_recall"]
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_copies_of_an_embedding_tie_exactly(dtype):
    # Twice the same 23 images: a matrix product alone rounds the copies differently, depending on
    # where they stand.
    image = torch.nn.functional.normalize(
        torch.randn(23, 129, generator=make_generator(5), dtype=torch.float64), dim=1
    ).to(dtype)
    owner = torch.arange(46)
    for chunk_rows in (7, 46):
        report = ties(
            torch.cat([image, image]),
            torch.cat([image, image.flip(0)]),
            torch.cat([owner[:23], owner[23:].flip(0)]),
            chunk_rows=chunk_rows,
        )
        assert report.optimistic["i2t_r1"] == report.optimistic["t2i_r1"] == 100
        assert report.expected["i2t_r1"] == report.expected["t2i_r1"] == 50
        assert report.pessimistic["i2t_r1"] == report.pessimistic["t2i_r1"] == 0
        assert report.pessimistic["i2t_r5"] == 100


def test_collapsed_embeddings_are_found_at_chance_and_not_at_100():
    image, owner = torch.full((20, 8), 0.3), torch.arange(20).repeat_interleave(3)
    report = ties(image, image[owner], owner)
    assert report.optimistic["mean_recall"] == 100 and report.pessimistic["mean_recall"] == 0
    assert [report.expected[f"t2i_r{k}"] for k in (1, 5, 10)] == pytest.approx([5, 25, 50])


def test_a_large_collapse_is_counted_through_its_copies():
    # 300 x 900 tied pairs are more than MANY_PAIRS; in front of them one image and caption that
    # find each other.
    generator = make_generator(4)
    odd, same = torch.randn(1, 16, generator=generator), torch.randn(1, 16, generator=generator)
    image = torch.nn.functional.normalize(torch.cat([odd, same.expand(300, -1)]), dim=1)
    owner = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.arange(300).repeat(3)])
    report = ties(image, image[owner], owner)
    assert MANY_PAIRS < 300 * 900
    assert report.optimistic["mean_recall"] == 100
    assert report.expected["t2i_r10"] == pytest.approx(100 * (1 + 900 * 10 / 300) / 901)
    assert report.pessimistic["t2i_r10"] == pytest.approx(100 / 901)


def test_differences_below_float32_rounding_are_decided():
    image = torch.tensor([[1.0, 0.0], [1.0, 1e-12]], dtype=torch.float64)
    # Each prefers its own image by 1e-12
    text = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    assert ties(image, text, torch.tensor([0, 1]), ks=(1,)).pessimistic["t2i_r1"] == 100


def test_reduced_precision_of_products_does_not_change_the_ranks():
    image, text, owner = _embeddings()
    image, text = image.float(), text.float()
    expected, before = ties(image, text, owner), torch.backends.mkldnn.matmul.fp32_precision
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ties(image, text, owner) == expected
    margin = score_margin(image, text)
    try:
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        assert ties(image, text, owner) == expected
        assert score_margin(image, text) > 2**-8 > 100 * margin
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


@pytest.mark.parametrize("width", [1, 2, 7, 96, 515])
def test_pair_scores_do_not_depend_on_position_and_lie_within_the_margin(width):
    left, right = (
        torch.randn(50, width, generator=make_generator(width, name)) for name in ("left", "right")
    )
    rows, columns = torch.arange(50).repeat_interleave(50), torch.arange(50).repeat(50)
    scores = pair_scores(left, right, rows, columns)
    some = torch.randperm(2500, generator=make_generator(3))[:77]
    assert torch.equal(pair_scores(right, left, columns[some], rows[some]), scores[some])
    assert (scores.view(50, 50) - left.double() @ right.double().T).abs().max() < 1e-12
    assert 0 < (scores.view(50, 50) - left @ right.T).abs().max() < score_margin(left, right)


def test_bad_input_is_refused():
    image, text, owner = _embeddings()
    for bad in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match="text_embeds has non-finite"):
            recall(image, torch.where(text == text[3, 2], bad, text), owner)
    with pytest.raises(ValueError, match="each of the 17 images"):
        recall(image, text, owner.clamp(max=15))
    with pytest.raises(ValueError, match="each of the 17 images"):
        recall(image, text, owner - 1)
    with pytest.raises(ValueError, match=r"received \[\(17, 6\), \(79, 5\)"):
        recall(image, text[:, :5], owner)
    with pytest.raises(ValueError, match="at least 1"):
        recall(image, text, owner, ks=(0, 5))
    with pytest.raises(ValueError, match="too large for float32 scores"):
        recall(image * 1e30, text * 1e30, owner)
