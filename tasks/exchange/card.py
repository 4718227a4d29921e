"""The page of an export: README.md with the header that the Hugging Face hub reads.

It says what the set is, what it was made from, what 8 bits cost, how it scores, and how to load it.
Where the test split went along, it holds a program that trains and scores without vl-distillery.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jinja2

from tasks.core.evaluation.metrics import LISTED
from tasks.core.evaluation.statistics import CONFIDENCE, describe
from tasks.core.training.pair_files import num_bytes
from tasks.exchange.layouts import TABLE
from tasks.exchange.pictures import Cost
from tasks.exchange.source import Source
from tasks.reporting.tables import PROTOCOLS

TEMPLATES = Path(__file__).parent / "templates"
# The hub's classes of size, by their upper ends
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (math.inf, "1M<n<10M"),
)


def render(source: Source, facts: dict[str, Any], choice: Any, facts_digest: str) -> str:
    """Return the text of a card.

    Args:
        facts: the content of `set.json`.
        choice: an `export.Choice`.
        facts_digest: sha256 of `set.json`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=False,  # Markdown and Python, not HTML
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Values as JSON: no sign in a quoted text has a meaning of its own in YAML or Python
    environment.filters["plain"] = json.dumps
    prepared, made = source.prepared.manifest, source.own.manifest
    told = {
        "facts": facts,
        "facts_digest": facts_digest,
        "choice": choice,
        "cost": Cost(**facts["rounding"]).in_words,
        "is_coreset": source.is_coreset,
        "size": next(name for limit, name in SIZES if facts["num_images"] < limit),
        "side": facts["picture_size"] // facts["parts"],
        "has_lists": source.pairs.text_image_idx is not None,
        "is_weighted": source.pairs.log_weights is not None,
        "widths": _widths(source),
        "rank": source.pairs.similarity.left.shape[1] if source.pairs.similarity else None,
        "table": TABLE,
        "suffix": choice.picture,
        "prepared": prepared,
        "made": made,
        "num_stored_bytes": num_bytes(source.pairs),
        "stored_as": "JPEG and captions" if source.is_coreset else source.pairs.storage,
        "scores": _scores(facts["scores"]),
        "in_words": _scores(facts["scores_in_words"]),
        "protocols": PROTOCOLS,
        "confidence": round(100 * CONFIDENCE),
        "missing": missing(facts, is_test_included=choice.is_test_included),
    }
    return environment.get_template("card.md.j2").render(told)


def missing(facts: dict[str, Any], *, is_test_included: bool) -> str | None:
    """Return why a card has no program that trains and scores; None where it has one."""
    encoder, trainable = facts["image_encoder"]["name"], facts["model"]["trainable"]
    if encoder != "timm":
        return f"it is written for encoders of timm, and this set has one of {encoder}"
    if trainable == "lora":
        return "it is written for `full`, `heads` and `text_head`, and this set trains `lora`"
    if not is_test_included:
        return (
            "it reads the test split and the weights of the image encoder, which this export was "
            "made without; `vl-distillery export ... --with-test` adds both"
        )
    return None


def _widths(source: Source) -> dict[str, int]:
    image = source.start.manifest.facts["out_dim"]
    shared = source.own.manifest.params["model"]["embed_dim"] or image
    return {"image": image, "text": source.pairs.text_embeds.shape[1], "shared": shared}


def _scores(scores: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Return (label, mean, interval) of each metric; [] where the set was not scored."""
    rows = []
    for metric in LISTED if scores else ():
        found = describe(score[metric.name] for score in scores)
        interval = "one student has none"
        if found.interval is not None:
            interval = f"{found.interval[0]:.2f} to {found.interval[1]:.2f}"
        rows.append((metric.label, f"{found.mean:.2f}", interval))
    return rows
