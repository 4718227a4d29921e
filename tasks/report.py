"""report: every score of a profile -> `reports/<profile>/`: the page, tables, plots and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks import keys, stages
from tasks.reporting.facts import Facts
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
    made: list[Ref],
    *,
    force: bool = False,
    accept_code: bool = False,
) -> Ref:
    """Return `reports/<profile>/`, written unless it shows exactly these scores, galleries and
    histories.

    Args:
        prepared: says what of the dataset was left out.
        galleries: in the order of `distilled`.
        made: every artifact behind the report; their manifests say how long each stage took.
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
            _facts(work, prepared, made),
            place,
            published=load_published(),
        )
        return {}

    key = keys.of_report(work, shown)
    folder = stages.REPORTS / work.profile
    return caching.obtain(folder, key, build, force=force, accept_code=accept_code)


def _facts(work: Reporting, prepared: Ref, made: list[Ref]) -> Facts:
    seconds, devices = dict[str, float](), set[str]()
    for ref in made:
        # Not `folder`: experts would be linked, or copied, for their times alone
        manifest = manifests.read(Path(ref.path), "seconds", "versions")
        stage, facts = manifest.stage, manifest.facts
        seconds[stage] = seconds.get(stage, 0.0) + facts["seconds"]
        if "device" in facts:
            devices.add(facts["device"])
    # The commit is that of this run; versions, below, are those of the last artifact alone
    git = caching.git_state()
    return Facts(
        profile=work.profile,
        dataset=work.dataset,
        protocol=work.protocol,
        student=work.models[0],
        models=work.models,
        num_students=work.num_students,
        commit=git["commit"] or "unknown",
        is_dirty=bool(git["is_dirty"]),
        parameters_hash=work.parameters_hash,
        machine=", ".join(sorted(devices)),
        versions=facts["versions"],
        seconds=seconds,
        left_out=_left_out(prepared),
    )


def _left_out(prepared: Ref) -> str:
    """Return what of the dataset was not used, by reason, with the first name of each."""
    found: Any = manifests.read(prepared.folder).facts.get("left_out")
    if found is None:
        return "not counted when this dataset was prepared"
    lines = [
        f"{tally['count']} x {reason}, first {tally['first'][0]}" for reason, tally in found.items()
    ]
    return "; ".join(lines) or "nothing"
