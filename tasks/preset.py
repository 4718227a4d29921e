"""The table of a preset from the scores of its cells: `reports/presets/<profile>/<preset>.csv`,
`.md` and `.html`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import stages
from tasks.settings.params import Params
from tasks.store import artifacts, manifests
from tasks.store.artifacts import Ref

PRESETS = stages.REPORTS / "presets"


@task(cache_policy=NO_CACHE, persist_result=False, task_run_name="{preset}")
def write_table(
    preset: str,
    title: str,
    cells: Mapping[str, Params],
    reference: Mapping[str, Params],
    scores: Mapping[str, list[Ref]],
) -> list[Path]:
    """Write the table and return its files; it takes a moment, so it is always written anew, with
    the same bytes from the same scores.

    Args:
        cells: parameters by cell.
        reference: the same without the user's own settings: published numbers stand beside cells
            that agree with them.
        scores: artifacts of evaluate by cell.
    """
    from tasks.reporting.preset_table import CellScores, build_table
    from tasks.reporting.preset_table import write_table as write
    from tasks.reporting.published import load_published
    from tasks.reporting.stored import load_scores

    found = {}
    for cell, chosen in cells.items():
        frame, _ = load_scores(ref.folder for ref in scores[cell])
        frame["folder"] = [str(ref.folder.parent) for ref in scores[cell]]
        distilled = frozenset(
            f"{method}-{size}" for method in chosen.distillers for size in chosen.general.budgets
        )
        same = _setting(chosen) == _setting(reference[cell])
        found[cell] = CellScores(
            frame, chosen.model_name, chosen.evaluate.protocol, distilled, same
        )
    any_cell = next(iter(cells.values()))
    table = build_table(
        preset, title, any_cell.dataset_name, found, load_published(), _facts(cells, scores)
    )
    artifacts.confirm(ref for refs in scores.values() for ref in refs)
    return write(table, PRESETS / any_cell.profile)


def _setting(params: Params) -> tuple[object, ...]:
    """What a published number depends on beside its size, protocol and seeds; the place of weights
    does not count.
    """
    plugins = (params.image_encoder, params.text_encoder)
    names = [plugin.module.label(plugin.config) for plugin in plugins]
    recipes = (params.evaluate.small, params.evaluate.full)
    return (
        *names,
        params.model,
        params.distillers,
        params.prepare_data,
        params.train_experts,
        *recipes,
    )


def _facts(cells: Mapping[str, Params], scores: Mapping[str, list[Ref]]) -> dict[str, str]:
    """Where the numbers are from, as text."""
    refs = {ref.path: ref for of_cell in scores.values() for ref in of_cell}
    needed = ("git", "device", "versions", "seconds")
    made = [manifests.read(ref.folder, *needed).facts for ref in refs.values()]
    git = [facts["git"] for facts in made]
    commits = sorted(
        {
            (state["commit"] or "unknown")
            + (" with uncommitted changes" if state["is_dirty"] else "")
            for state in git
        }
    )
    cell = next(iter(cells.values()))
    names = {name for params in cells.values() for name in (params.model_name, *params.students)}
    digest = artifacts.canonical_digest({name: params.digest for name, params in cells.items()})
    return {
        "profile": cell.profile,
        "students": f"{cell.evaluate.num_eval} a set, {', '.join(sorted(names))}",
        "texts": ", ".join(
            sorted(
                {
                    params.text_encoder.module.label(params.text_encoder.config)
                    for params in cells.values()
                }
            )
        ),
        "commit of the scores": ", ".join(commits),
        "parameters": digest[:12],
        "machine": ", ".join(sorted({facts["device"] for facts in made})),
        "versions": ", ".join(
            f"{name} {version}" for name, version in sorted(made[-1]["versions"].items()) if version
        ),
        "training of students": f"{sum(facts['seconds'] for facts in made):.0f} s",
    }
