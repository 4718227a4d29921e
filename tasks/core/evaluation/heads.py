"""Says how good the features of a frozen encoder are: heads are trained on them, by one recipe."""

from __future__ import annotations

import torch

from tasks.core.evaluation.retrieval import recall
from tasks.core.evaluation.students import RecipeSection, train_student
from tasks.core.foundations.records import Split
from tasks.core.foundations.seeding import derive_seed
from tasks.core.networks.dual_encoder import build_dual_encoder
from tasks.core.networks.encoders import ImageEncoder
from tasks.core.training.augment import AS_STORED
from tasks.core.training.split_pairs import SplitPairs

# Those of the full data in the profile `flickr8k`, whatever the profile: numbers stay comparable
RECIPE = RecipeSection(
    num_epochs=12,
    batch_size=128,
    lr_img=0.1,
    lr_txt=0.1,
    momentum=0.9,
    weight_decay=5.0e-4,
    num_validations=12,
)
EMBED_DIM, NUM_STUDENTS = 512, 3


def recalls_of_heads(
    encoder: ImageEncoder,
    train: Split,
    val: Split,
    *,
    dropout: float,
    tau: float,
    seed: int,
    device: torch.device,
) -> list[float]:
    """Return the mean recall on the validation split, in percent, of `NUM_STUDENTS` students.

    They are trained on all training pairs by `RECIPE`. Each keeps its best epoch on validation.

    Args:
        encoder: is frozen, in place.
        train, val: with the features of the encoder.
        dropout, tau: of the students.
    """
    found = []
    for number in range(NUM_STUDENTS):
        own = derive_seed(seed, "heads", number)
        model = build_dual_encoder(
            encoder.module,
            out_dim=encoder.out_dim,
            text_dim=train.text_embeds.shape[1],
            trainable="heads",
            embed_dim=EMBED_DIM,
            dropout=dropout,
            seed=own,
        )
        outcome = train_student(
            model.to(device),
            SplitPairs(train, encoder, AS_STORED, device=device),
            RECIPE,
            step_sizes=None,
            protocol="strict",
            encoder=encoder,
            val=val,
            # It would be scored once at the end; the test split stays unseen
            test=val,
            score=recall,
            tau=tau,
            seed=own,
        )
        found.append(outcome.val["mean_recall"])
    return found
