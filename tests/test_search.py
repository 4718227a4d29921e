"""FAISS finds what counting finds, ties included, and the nearest sentence that a naive search
finds.
"""

import sys
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from tasks.core.evaluation.retrieval import recall
from tasks.core.foundations.seeding import make_generator
from tasks.search import SLACK, nearest, recall_by_search


def _random(seed, num_images=37, num_texts=113, width=9, dtype=torch.float32):
    generator = make_generator(seed, "search")
    owner = torch.cat(
        [
            torch.arange(num_images),
            torch.randint(num_images, (num_texts - num_images,), generator=generator),
        ]
    )
    owner = owner[torch.randperm(num_texts, generator=generator)]
    image = torch.randn(num_images, width, generator=generator, dtype=dtype)
    text = image[owner] + 1.5 * torch.randn(num_texts, width, generator=generator, dtype=dtype)
    return (
        torch.nn.functional.normalize(image, dim=1),
        torch.nn.functional.normalize(text, dim=1),
        owner,
    )


@pytest.mark.parametrize("seed", range(10))
def test_recall_by_search_equals_counting_for_any_chunk_size(seed):
    image, text, owner = _random(seed)
    for chunk_rows in (7, 38, 4096):
        assert recall_by_search(image, text, owner, chunk_rows=chunk_rows) == recall(
            image, text, owner, chunk_rows=29
        )


@pytest.mark.parametrize("seed", range(10))
def test_recall_by_search_equals_counting_where_scores_are_tied(seed):
    # Integer scores of few values: a top-26 list is full of ties, and the positive is often not on
    # it.
    generator = make_generator(seed, "ties")
    image, text = (
        torch.randint(-1, 2, (rows, 3), generator=generator).float() for rows in (61, 190)
    )
    owner = torch.cat([torch.arange(61), torch.randint(61, (129,), generator=generator)])
    for ks in ((1, 5, 10), (3,), (40, 200)):
        assert recall_by_search(image, text, owner, ks=ks, chunk_rows=53) == recall(
            image, text, owner, ks=ks
        )


@pytest.mark.parametrize("copies", [2, 12, 60])
def test_a_positive_pushed_off_the_list_by_its_copies_still_counts(copies):
    # Every embedding exists `copies` times, each copy with another owner: more than the list holds
    # when copies is 60.
    image, text, owner = _random(copies, num_images=5, num_texts=5, width=130)
    image, text = image.repeat(copies, 1), image[owner].repeat(copies, 1)
    owner = torch.cat([owner + 5 * copy for copy in reversed(range(copies))])
    found = recall_by_search(image, text, owner, ks=(1, 5))
    assert found == recall(image, text, owner, ks=(1, 5)) == {name: 100.0 for name in found}
    assert copies < 60 or copies > 5 + SLACK


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_float_types_are_ranked_in_their_own_precision(dtype):
    image, text, owner = _random(3, dtype=torch.float64)
    image, text = image.to(dtype), text.to(dtype)
    assert recall_by_search(image, text, owner) == recall(image, text, owner)
    image = torch.tensor([[1.0, 0.0], [1.0, 1e-12]], dtype=torch.float64)
    # Each prefers the other image by 1e-12
    text = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    assert recall_by_search(image, text, torch.tensor([1, 0]), ks=(1,))["t2i_r1"] == 0


@pytest.mark.parametrize("first, last", [(0, 89), (89, 0)])
def test_more_keys_within_rounding_than_the_list_holds_are_still_ranked(first, last):
    # 90 images whose scores differ by 1e-12: all equal to FAISS, which lists any 26 of them.
    # Caption i is of image i.
    steps = torch.linspace(first, last, 90, dtype=torch.float64)
    image = torch.stack([torch.ones(90, dtype=torch.float64), 1e-12 * steps], 1)
    found = recall_by_search(image, torch.ones(90, 2, dtype=torch.float64), torch.arange(90))
    assert [found[f"t2i_r{k}"] for k in (1, 5, 10)] == pytest.approx(
        [100 / 90, 500 / 90, 1000 / 90]
    )
    assert found["i2t_r1"] == 100  # every caption is the same: tied


def test_bad_embeddings_are_refused_as_by_counting():
    image, text, owner = _random(0)
    with pytest.raises(ValueError, match="image_embeds has non-finite"):
        recall_by_search(image / 0, text, owner)
    with pytest.raises(ValueError, match="each of the 37 images"):
        recall_by_search(image, text, owner.clamp(max=35))


@pytest.mark.parametrize("k", [1, 4, 200])
def test_nearest_equals_a_naive_cosine_search(k):
    queries, keys = (
        torch.randn(rows, 17, generator=make_generator(rows)) * scale
        for rows, scale in ((23, 5.0), (200, 0.01))
    )
    similarities, indices = nearest(queries, keys, k=k, chunk_rows=10)
    left, right = queries.double().numpy(), keys.double().numpy()
    cosine = (left / np.linalg.norm(left, axis=1, keepdims=True)) @ (
        right / np.linalg.norm(right, axis=1, keepdims=True)
    ).T
    assert indices.shape == similarities.shape == (23, k) and similarities.dtype == torch.float32
    assert np.array_equal(indices.numpy(), np.argsort(-cosine, axis=1)[:, :k])
    assert np.allclose(similarities.numpy(), -np.sort(-cosine, axis=1)[:, :k], atol=1e-6)


def test_equal_captions_are_listed_by_index_however_many_there_are():
    base = torch.randn(4, 33, generator=make_generator(0))
    keys = base.repeat(50, 1)  # key 4 j + i is copy j of sentence i
    similarities, indices = nearest(base[[2, 0]], keys, k=3)
    assert indices.tolist() == [[2, 6, 10], [0, 4, 8]]
    assert torch.allclose(similarities, torch.ones(2, 3)) and similarities.max() <= 1


def test_nearest_refuses_bad_input():
    keys = torch.randn(5, 3, generator=make_generator(0))
    with pytest.raises(ValueError, match="queries has non-finite"):
        nearest(keys[:1] * float("nan"), keys)
    with pytest.raises(ValueError, match=r"k must lie in 1 \.\. 5"):
        nearest(keys, keys, k=6)
    with pytest.raises(ValueError, match=r"received \(5, 2\) and \(5, 3\)"):
        nearest(keys[:, :2], keys)
    with pytest.raises(ValueError, match="norms_of_the_vectors"):
        nearest(keys * 1e30, keys)


def test_a_vector_of_zeros_is_similar_to_nothing():
    similarities, _ = nearest(torch.zeros(1, 3), torch.eye(3))
    assert similarities.tolist() == [[0.0]]


def test_a_missing_faiss_names_the_extras(monkeypatch):
    # What `import faiss` meets where it is not installed
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"vl-distillery\[cpu\].*vl-distillery\[gpu\]"):
        nearest(torch.eye(3), torch.eye(3))


def test_the_number_of_threads_is_left_alone():
    import faiss

    before = faiss.omp_get_max_threads(), torch.get_num_threads()
    recall_by_search(*_random(1))
    assert (faiss.omp_get_max_threads(), torch.get_num_threads()) == before


def test_search_runs_on_the_gpu_where_there_is_one_and_warns_otherwise():
    import faiss

    has_gpu = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    with nullcontext() if has_gpu else pytest.warns(UserWarning, match="install the extra 'gpu'"):
        assert recall_by_search(*_random(2), device="cuda") == recall(*_random(2))
