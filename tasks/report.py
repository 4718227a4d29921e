"""report: every score of a profile -> `reports/`: the page, tables, plots and metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasks import stages
from tasks.settings.params import Params
from tasks.steps import step
from tasks.store import artifacts, caching
from tasks.store.artifacts import Key, Ref

STAGE = stages.STAGES["report"]
_HERE = Path(__file__).parent


@step()
def write_report(
    params: Params,
    scores: list[Ref],
    galleries: list[Ref],
    distilled: list[Ref],
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return `reports/`, written unless it shows exactly these scores, galleries and histories.

    Args:
        galleries: in the order of `distilled`.
    """
    groups = {"scores": scores, "galleries": galleries, "distilled": distilled}
    inputs = {f"{name}/{ref.path}": ref.digest for name, refs in groups.items() for ref in refs}
    inputs.update(
        {str(path.relative_to(_HERE)): artifacts.file_digest(path) for path in _data_files()}
    )
    key = Key(
        STAGE.name,
        {"profile": params.profile, "gallery_pairs": params.report.gallery_pairs},
        inputs,
        caching.code_digest(_code()),
    )

    def build(work: Path) -> dict[str, Any]:
        from tasks.reporting.build import build_report
        from tasks.reporting.published import load_published
        from tasks.reporting.stored import load_gallery, load_histories, load_scores

        frame, curves = load_scores(ref.folder for ref in scores)
        build_report(
            frame,
            curves,
            load_histories(ref.folder for ref in distilled),
            [
                load_gallery(gallery.folder, pairs.folder, params.report.gallery_pairs)
                for gallery, pairs in zip(galleries, distilled, strict=True)
            ],
            _facts(params, [*scores, *distilled]),
            work,
            published=load_published(),
        )
        return {}

    return caching.obtain(stages.REPORTS, key, build, force=force, accept_code=accept_code)


def _facts(params: Params, refs: list[Ref]) -> dict[str, Any]:
    manifests = [json.loads((ref.folder / artifacts.MANIFEST).read_text()) for ref in refs]
    seconds: dict[str, float] = {}
    for manifest in manifests:
        seconds[manifest["stage"]] = (
            seconds.get(manifest["stage"], 0.0) + manifest["facts"]["seconds"]
        )
    devices = {manifest["facts"]["device"] for manifest in manifests}
    git = caching.git_state()
    return {
        "profile": params.profile,
        "protocol": params.evaluate.protocol,
        "models": [params.model_name, params.text_encoder.module.label(params.text_encoder.config)],
        "num_seeds": params.evaluate.num_eval,
        "commit": git["commit"] or "unknown",
        "is_dirty": bool(git["is_dirty"]),
        "parameters_hash": params.digest,
        "machine": ", ".join(sorted(devices)),
        "versions": manifests[-1]["facts"]["versions"],
        "seconds": seconds,
        "student": params.model_name,
        "dataset": params.dataset_name,
    }


def _code() -> list[str]:
    return [
        *STAGE.code,
        *(f"tasks.reporting.{path.stem}" for path in sorted((_HERE / "reporting").glob("*.py"))),
    ]


def _data_files() -> list[Path]:
    """Templates and published numbers: what the page shows beside the results."""
    return sorted(
        [
            *(_HERE / "reporting" / "templates").glob("*.j2"),
            *(_HERE / "reporting" / "published_numbers").glob("*.csv"),
        ]
    )
