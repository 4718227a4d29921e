"""report: every score of a profile -> `reports/`: the page, tables, plots and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks import keys, stages
from tasks.settings.steps import Reporting
from tasks.step import step
from tasks.store import caching, manifests
from tasks.store.artifacts import Ref


@step()
def write_report(
    work: Reporting,
    prepared: Ref,
    scores: list[Ref],
    galleries: list[Ref],
    distilled: list[Ref],
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return `reports/`, written unless it shows exactly these scores, galleries and histories.

    Args:
        prepared: says what of the dataset was left out.
        galleries: in the order of `distilled`.
    """
    shown = {
        "prepared": [prepared],
        "scores": scores,
        "galleries": galleries,
        "distilled": distilled,
    }

    def build(place: Path) -> dict[str, Any]:
        from tasks.reporting.build import build_report
        from tasks.reporting.published import load_published
        from tasks.reporting.stored import load_gallery, load_histories, load_scores

        frame, curves = load_scores(ref.folder for ref in scores)
        build_report(
            frame,
            curves,
            load_histories(ref.folder for ref in distilled),
            [
                load_gallery(gallery.folder, pairs.folder, work.gallery_pairs)
                for gallery, pairs in zip(galleries, distilled, strict=True)
            ],
            {**_facts(work, [*scores, *distilled]), "left_out": _left_out(prepared)},
            place,
            published=load_published(),
        )
        return {}

    key = keys.of_report(work, shown)
    return caching.obtain(stages.REPORTS, key, build, force=force, accept_code=accept_code)


def _facts(work: Reporting, refs: list[Ref]) -> dict[str, Any]:
    seconds, devices = dict[str, float](), set[str]()
    for ref in refs:
        manifest = manifests.read(ref.folder, "seconds", "device", "versions")
        stage, facts = manifest.stage, manifest.facts
        seconds[stage] = seconds.get(stage, 0.0) + facts["seconds"]
        devices.add(facts["device"])
    git = caching.git_state()
    return {
        "profile": work.profile,
        "protocol": work.protocol,
        "models": work.models,
        "num_seeds": work.num_seeds,
        "commit": git["commit"] or "unknown",
        "is_dirty": bool(git["is_dirty"]),
        "parameters_hash": work.parameters_hash,
        "machine": ", ".join(sorted(devices)),
        "versions": facts["versions"],
        "seconds": seconds,
        "student": work.models[0],
        "dataset": work.dataset,
    }


def _left_out(prepared: Ref) -> str:
    """Return what of the dataset was not used, by reason, with the first name of each."""
    found: Any = manifests.read(prepared.folder).facts.get("left_out")
    if found is None:
        return "not counted when this dataset was prepared"
    lines = [
        f"{tally['count']} x {reason}, first {tally['first'][0]}" for reason, tally in found.items()
    ]
    return "; ".join(lines) or "nothing"
