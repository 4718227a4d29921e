"""What of a set a student sees in words: the nearest training sentences, and all else as it is."""

from dataclasses import replace

import numpy as np
import torch

from tasks.core.foundations.records import Split
from tasks.core.foundations.seeding import make_generator
from tasks.core.training.pair_set import PairSet, Similarity
from tasks.student_models import in_words, plain


def test_each_text_becomes_the_training_sentence_with_the_largest_cosine():
    draw = make_generator(3)
    sentences = torch.randn(11, 7, generator=draw)
    wanted = torch.tensor([4, 9, 4])
    texts = 2.5 * sentences[wanted] + 0.01 * torch.randn(3, 7, generator=draw)
    images = torch.randn(3, 3, 5, 5, generator=draw)
    soft = Similarity(torch.ones(3), torch.ones(3, 2), torch.ones(3, 2), 0.5)
    sizes = {"img": 0.1, "txt": 0.2}
    pairs = PairSet(images, texts, (0.5,) * 3, (0.5,) * 3, soft, sizes, "wbce", {"method": "lors"})
    train = Split(
        images=np.zeros((11, 5, 5, 3), np.uint8),
        captions=["a"] * 11,
        caption_image_idx=torch.arange(11),
        text_embeds=sentences,
    )
    found = in_words(pairs, train)
    assert torch.equal(found.text_embeds, sentences[wanted])
    assert replace(found, text_embeds=texts) == pairs


def test_a_plain_student_takes_nothing_that_the_set_learned_for_it():
    images, texts = torch.ones(3, 3, 5, 5), torch.ones(3, 7)
    soft = Similarity(torch.ones(3), torch.ones(3, 2), torch.ones(3, 2), 0.5)
    sizes = {"img": 0.1, "txt": 0.2}
    pairs = PairSet(images, texts, (0.5,) * 3, (0.5,) * 3, soft, sizes, "wbce", {"method": "lors"})
    found = plain(pairs)
    assert (found.similarity, found.step_sizes, found.loss) == (None, None, "info_nce")
    kept = {"similarity": soft, "step_sizes": sizes, "loss": "wbce"}
    assert replace(found, **kept) == pairs
