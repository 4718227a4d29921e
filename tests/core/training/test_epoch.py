"""Training steps equal torch.optim written out, captions belong to their images, and a diverging
loss is named.
"""

import pytest
import torch

from tasks.core.foundations.seeding import make_generator
from tasks.core.training.epoch import sgd, train_epoch
from tasks.core.training.losses import info_nce
from tasks.core.training.split_pairs import SplitPairs
from tests.core.hypergradient.small_problem import (
    CPU,
    NO_AUGMENT,
    make_encoder,
    make_model,
    make_split,
)


def _setup(lr_img=0.1, lr_txt=0.2):
    encoder, split = make_encoder(), make_split()
    model = make_model(encoder)
    optimiser = sgd(model, lr_img, lr_txt, momentum=0.0)
    return model, SplitPairs(split, encoder, NO_AUGMENT, device=CPU), optimiser


def test_an_epoch_equals_plain_sgd_written_out():
    model, pairs, optimiser = _setup()
    train_epoch(model, pairs, optimiser, batch_size=5, tau=0.07, seed=1, epoch=2)

    expected, source, _ = _setup()
    captions, pictures, masks = (
        make_generator(1, name, 2) for name in ("captions", "augment", "dropout")
    )
    for rows in torch.randperm(23, generator=make_generator(1, "order", 2)).split(5):
        images, texts = source.take(rows, captions, pictures)
        names, parameters = zip(*expected.named_parameters(), strict=True)
        grads = torch.autograd.grad(info_nce(*expected(images, texts, masks), tau=0.07), parameters)
        with torch.no_grad():
            for name, parameter, grad in zip(names, parameters, grads, strict=True):
                parameter -= (0.2 if name.startswith("text_") else 0.1) * grad
    for (name, got), want in zip(model.named_parameters(), expected.parameters(), strict=True):
        assert torch.allclose(got, want, atol=1e-6), name


def test_every_image_gets_one_of_its_own_captions_and_all_of_them_over_time():
    split = make_split()
    pairs = SplitPairs(split, make_encoder(), NO_AUGMENT, device=CPU)
    seen = set()
    for visit in range(20):
        _, texts = pairs.take(torch.tensor([1, 4]), make_generator(0, visit), make_generator(0))
        for image, text in zip((1, 4), texts, strict=True):
            matches = (split.text_embeds == text).all(1).nonzero()[:, 0].tolist()
            assert all(int(split.caption_image_idx[m]) == image for m in matches)
            seen.update(matches)
    assert seen == {
        i for i in range(len(split.captions)) if int(split.caption_image_idx[i]) in (1, 4)
    }


def test_a_loss_that_is_not_finite_names_epoch_and_setting():
    model, pairs, optimiser = _setup(lr_img=1e20, lr_txt=1e20)
    with pytest.raises(
        ValueError, match=r"loss is nan in epoch 3, step 1.*last finite loss was \d.*lr_img"
    ):
        train_epoch(model, pairs, optimiser, batch_size=5, tau=0.07, seed=1, epoch=3)


def test_a_last_batch_of_one_pair_is_left_out():
    model, pairs, optimiser = _setup()
    sizes = []
    train_epoch(
        model,
        pairs,
        optimiser,
        batch_size=11,
        tau=0.07,
        seed=1,
        epoch=0,
        on_batch=lambda rows, img, txt: sizes.append(len(rows)),
    )
    assert sizes == [11, 11]
