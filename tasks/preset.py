"""The table of a preset from the scores of its cells: `reports/<profile>/presets/<preset>.csv`,
`.md` and `.html`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

from tasks import stages
from tasks.settings.params import Params
from tasks.step import step
from tasks.store import artifacts, manifests
from tasks.store.artifacts import Ref


@step("{preset}")
def write_table(
    preset: str,
    title: str,
    cells: Mapping[str, Params],
    reference: Mapping[str, Params],
    scores: Mapping[str, list[Ref]],
    distilled: Mapping[str, dict[str, Ref]],
    experts: Mapping[str, list[Ref]],
) -> list[Path]:
    """Write the table and return its files.

    It is no artifact: to write it takes a moment, so it is always written anew. The same scores
    give the same bytes.

    Args:
        cells: parameters by cell.
        reference: the same cells without the user's own settings. Published numbers stand beside a
            cell only where both agree.
        scores: artifacts of evaluate by cell.
        distilled: sets by cell and name.
        experts: the experts that each cell read.
    """
    from tasks.reporting.costs import costs
    from tasks.reporting.preset_table import CellScores, build_table
    from tasks.reporting.preset_table import write_table as write
    from tasks.reporting.published import load_published
    from tasks.reporting.stored import load_scores

    found = {}
    for cell, chosen in cells.items():
        frame, _ = load_scores(ref.folder for ref in scores[cell])
        frame["folder"] = [str(ref.folder.parent) for ref in scores[cell]]
        made = [str(name) for name in chosen.sets if name.method in chosen.distillers]
        found[cell] = CellScores(
            frame,
            chosen.model_name,
            chosen.evaluate.protocol,
            frozenset(made),
            _setting(chosen) == _setting(reference[cell]),
        )
    spent = costs(distilled, chain(*experts.values()))
    # After they were read: another run may have replaced a score meanwhile
    artifacts.confirm(ref for refs in scores.values() for ref in refs)
    # The cells of a preset are of one profile, so that the last one tells both
    dataset, profile = chosen.report.dataset, chosen.profile
    facts = _facts(cells, scores)
    table = build_table(preset, title, dataset, found, load_published(), facts, spent)
    return write(table, stages.REPORTS / profile / "presets")


def _setting(params: Params) -> tuple[object, ...]:
    """Return what a published number depends on beside its size, protocol and seeds. Where weights
    lie does not count.
    """
    return (
        params.image_encoder.label,
        params.text_encoder.label,
        params.model,
        params.distillers,
        params.prepare_data,
        params.train_experts,
        params.evaluate.small,
        params.evaluate.full,
    )


def _facts(cells: Mapping[str, Params], scores: Mapping[str, list[Ref]]) -> dict[str, str]:
    """Where the numbers are from, as text."""
    refs = {ref.path: ref for ref in chain(*scores.values())}
    texts, students, digests = set(), set(), {}
    for name, params in cells.items():
        texts.add(params.text_encoder.label)
        students |= {params.model_name, *params.students}
        digests[name] = params.digest
    needed = ("git", "device", "versions", "seconds")
    commits, devices, seconds = set(), set(), 0.0
    for ref in refs.values():
        facts = manifests.read(ref.folder, *needed).facts
        changed = " with uncommitted changes" if facts["git"]["is_dirty"] else ""
        commits.add((facts["git"]["commit"] or "unknown") + changed)
        devices.add(facts["device"])
        seconds += facts["seconds"]
    versions = [
        f"{name} {version}" for name, version in sorted(facts["versions"].items()) if version
    ]
    return {
        "profile": params.profile,
        "students": f"{params.evaluate.num_eval} a set, {_listed(students)}",
        "texts": _listed(texts),
        "commit of the scores": _listed(commits),
        "parameters": artifacts.canonical_digest(digests)[:12],
        "machine": _listed(devices),
        "versions": ", ".join(versions),
        "training of students": f"{seconds:.0f} s",
    }


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
