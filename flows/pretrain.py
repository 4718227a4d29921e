"""pretrain: weights for an image encoder that has none, learned from a teacher and from captions.
`vl-distillery pretrain --set variant=PRESET/CELL`.

No flow of Prefect: profiles read the file as any other weights. `tasks/pretrain.py` does the work.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from flows import cli
from flows.services import session


def main(settings: Sequence[str], **words: Any) -> None:
    """Pretrain, and exit: 0 done, 2 a wrong input, 130 interrupted."""
    cli.guarded(lambda: _pretrain(settings, **words))


def _pretrain(
    settings: Sequence[str],
    teacher: str | None,
    to: str | None,
    epochs: int | None,
    minutes: float | None,
) -> None:
    session.switch_offline()
    logging.basicConfig(format="%(message)s")
    cli.LOGGER.setLevel(logging.INFO)
    from flows.embed_captions import embed_captions
    from tasks import pretrain
    from tasks.settings import pretraining

    work = pretraining.load(settings, teacher, to, epochs, minutes)
    pretrain.check(work)
    refs = embed_captions.fn(work.settings)
    assert refs.prepared and refs.embeddings
    done = pretrain.pretrain(work, refs.prepared, refs.embeddings)
    course = done.course
    print(
        f"pretrain: {work.target}, {course.num_epochs} epochs in {course.seconds:.0f} s, loss "
        f"{course.losses[-1]:.4f}, validation {course.val_losses[-1]:.4f}"
    )
    print(
        f"validation mean recall of heads on its features: {done.recall:.1f}, on those of "
        f"{work.teacher.image_encoder.label}: {done.teacher_recall:.1f}; {work.target}.json "
        "says how it was made"
    )


if __name__ == "__main__":
    cli.main("pretrain")
