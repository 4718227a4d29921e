"""Linear heads in closed form, against plain inverses, least squares and random rivals."""

import pytest
import torch

from tasks.core.evaluation.ceilings import best_heads, heads_of
from tasks.core.evaluation.retrieval import recall
from tasks.core.foundations.records import Split
from tasks.core.foundations.seeding import make_generator
from tasks.core.training.covariances import Moments

OWNER = torch.arange(23).repeat_interleave(torch.tensor([2, 1, 3, 1] * 5 + [2, 2, 1]))
F, D = 7, 5


def rows(name, *shape):
    return torch.randn(*shape, generator=make_generator(0, name), dtype=torch.float64)


def pairs():
    features = rows("x", 23, F) @ rows("mix", F, F)
    return features, features[OWNER] @ rows("map", F, D) + rows("noise", len(OWNER), D) + 3.0


def root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.sqrt()) @ vectors.T


def made(ridge=0.1):
    """Heads of one ridge, with the roots of both covariances plus the ridge."""
    moments = Moments.of(*pairs(), OWNER)
    img_b, txt_b = moments.ridges(ridge)
    eyes = (torch.eye(size, dtype=torch.float64) for size in (F, D))
    img, txt = (
        root(covariance + b * eye)
        for covariance, b, eye in zip((moments.img, moments.txt), (img_b, txt_b), eyes, strict=True)
    )
    (heads,) = heads_of(moments, (ridge,))
    return heads, img, txt, moments


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 30.0])
def test_the_map_is_that_of_the_definition(ridge):
    heads, img, txt, moments = made(ridge)
    expected = torch.linalg.inv(img @ img) @ moments.cross @ torch.linalg.inv(txt @ txt)
    assert heads.ridge == ridge and torch.allclose(heads.matrix, expected)


def test_embeddings_compare_by_the_cosine_of_both_heads():
    heads, img, txt, moments = made()
    features, texts = pairs()
    left, values, right = torch.linalg.svd(img @ heads.matrix @ txt, full_matrices=False)
    seen = (features - moments.img_mean) @ torch.linalg.inv(img) @ left * values.sqrt()
    read = (texts - moments.txt_mean) @ torch.linalg.inv(txt) @ right.T * values.sqrt()
    # Without their lengths: the similarity of the map
    similarity = (features - moments.img_mean) @ heads.matrix @ (texts - moments.txt_mean).T
    assert torch.allclose(seen @ read.T, similarity)
    cosine = similarity / seen.norm(dim=1)[:, None] / read.norm(dim=1)
    found = heads.embed(features.float(), texts.float())
    assert found[0].dtype == torch.float32
    assert torch.allclose((found[0] @ found[1].T).double(), cosine, atol=1e-5)


def test_no_map_of_a_rank_is_nearer_than_the_one_of_that_rank():
    heads, img, txt, _ = made()

    def distance(matrix):
        return float((img @ (heads.matrix - matrix) @ txt).norm())

    for rank in (1, 3):
        cut = heads.of_rank(rank)
        assert torch.linalg.matrix_rank(cut.matrix) == rank
        nearest = distance(cut.matrix)
        left, right = rows("left", F, rank), rows("right", rank, D)
        for _ in range(50):  # alternating least squares, in the same distance
            left = torch.linalg.lstsq((right @ txt).T, (heads.matrix @ txt).T).solution.T
            right = torch.linalg.lstsq(img @ left, img @ heads.matrix).solution
            assert distance(left @ right) >= nearest - 1e-9
        assert distance(left @ right) == pytest.approx(nearest, rel=1e-3)
    assert torch.allclose(heads.of_rank(D).matrix, heads.matrix)


def test_heads_in_the_span_of_images_are_those_of_least_squares():
    heads, img, _, _ = made()
    images = pairs()[0][[3, 9, 4, 17]]
    centred = images - images.mean(0)
    weights = torch.linalg.lstsq(img @ centred.T, img @ heads.matrix, driver="gelsd").solution
    found = heads.within(images.float().double()).matrix
    assert torch.allclose(found, centred.T @ weights)
    assert torch.linalg.matrix_rank(found) == 3


def test_images_can_reach_no_more_than_any_pairs_of_their_number():
    heads, img, txt, _ = made()
    images, distances = pairs()[0], []
    for count in (2, 3, 5, 8):
        spanned = heads.within(images[:count]).matrix
        spanned_far = float((img @ (heads.matrix - spanned) @ txt).norm())
        cut = heads.of_rank(count - 1).matrix
        assert spanned_far >= float((img @ (heads.matrix - cut) @ txt).norm()) - 1e-9
        distances.append(spanned_far)
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] == pytest.approx(0.0, abs=1e-9)  # 8 images span all 7 directions


def test_an_image_that_stands_twice_adds_no_direction():
    heads, images = made()[0], pairs()[0][:4]
    twice = heads.within(torch.cat([images, images[:2]])).matrix
    assert torch.linalg.matrix_rank(twice) == 3


def split(name, count, map_, noise):
    features = rows(name, count, F)
    texts = features @ map_ + noise * rows(f"{name} noise", count, D)
    captions = tuple(map(str, range(count)))
    owner = torch.arange(count)
    return Split(None, owner, texts.float(), captions, features.float())


def test_a_linear_relation_is_found_and_its_rank_is_what_it_takes():
    map_ = rows("a", F, 3) @ rows("b", 3, D)
    train, test = split("train", 300, map_, 0.05), split("test", 150, map_, 0.05)
    heads = best_heads(train, test)
    two, three, every = (one.score(test)["mean_recall"] for one in map(heads.of_rank, (2, 3, D)))
    assert every == heads.score(test)["mean_recall"] > 90.0
    assert three > every > two  # a fourth direction is noise


def test_validation_chooses_the_ridge():
    map_ = rows("a", F, D)
    train, val = split("train", 9, map_, 0.3), split("val", 31, map_, 0.3)
    chosen = best_heads(train, val)
    moments = Moments.of(train.features.double(), train.text_embeds.double(), torch.arange(9))
    found = {one.ridge: one.score(val)["mean_recall"] for one in heads_of(moments)}
    assert len(set(found.values())) > 1 and found[chosen.ridge] == max(found.values())
    embeds = chosen.embed(val.features, val.text_embeds)
    assert chosen.score(val) == recall(*embeds, val.caption_image_idx)
