"""score: Recall@K of anybody's embeddings. `vl-distillery score EMBEDDINGS... --mapping FILE`.

No flow of Prefect: nothing is written. `tasks/exchange/score.py` reads, checks and counts.
"""

from __future__ import annotations

import json
from typing import Any

from flows import cli
from flows.services import session

HEADINGS = ("", "recall", "ties at random", "ties as misses")


def main(files: list[str], mapping: str | None, similarity: str, is_json: bool) -> None:
    """Print the scores, and exit: 0 done, 2 a wrong input, 130 interrupted."""
    cli.guarded(lambda: _score(files, mapping, similarity, is_json), interrupted=cli.BEGINS_AGAIN)


def _score(files: list[str], mapping: str | None, similarity: str, is_json: bool) -> None:
    session.switch_offline()
    from tasks.core.evaluation.metrics import LISTED
    from tasks.exchange.score import check_similarity, read_embeddings, score

    check_similarity(similarity)
    given = read_embeddings(files, mapping)
    found = score(given, similarity)
    least, most = given.captions_per_image
    told: dict[str, Any] = {
        "num_images": len(given.images),
        "num_captions": len(given.texts),
        "captions_per_image": {"least": least, "most": most},
        "similarity": similarity,
        "recall": found.optimistic,
        "ties_at_random": found.expected,
        "ties_as_misses": found.pessimistic,
    }
    if is_json:
        print(json.dumps(told, indent=1))
        return
    print(
        f"{told['num_images']} images, {told['num_captions']} captions ({least} to {most} an "
        f"image), {similarity} similarity, percent"
    )
    print("{:12} {:>8} {:>16} {:>16}".format(*HEADINGS))
    for metric in LISTED:
        orders = (found.optimistic, found.expected, found.pessimistic)
        values = [order[metric.name] for order in orders]
        print("{:12} {:8.2f} {:16.2f} {:16.2f}".format(metric.label, *values))


if __name__ == "__main__":
    cli.main("score")
