"""preset: a table of the paper. Every cell goes through the stages up to evaluate, then the table
is written.

`vl-distillery preset NAME`; `--list` names the presets. What is there is used, so a preset that
was killed goes on with the same command.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flows import cli
from flows.distill import distill
from flows.evaluate import evaluate
from flows.refs import Refs
from flows.runner import flow, run
from flows.select_coresets import select_coresets
from flows.train_experts import train_experts
from tasks import preflight
from tasks import preset as step
from tasks.exchange.found import imported
from tasks.settings import params
from tasks.store import caching


@dataclass(frozen=True)
class PresetRefs:
    """What the cells of a preset made, by cell, and the files of its table."""

    cells: dict[str, Refs]
    table: list[str]

    def count(self) -> tuple[int, int]:
        """Return how many artifacts were made and how many were there; one that cells share counts
        once.
        """
        seen: dict[str, bool] = {}
        for refs in self.cells.values():
            for ref in refs.all():
                seen.setdefault(ref.path, ref.is_cached)
        return len(seen) - sum(seen.values()), sum(seen.values())


@flow("preset")
def preset(
    preset: str, settings: Sequence[str] = (), force: bool = False, accept_code: bool = False
) -> PresetRefs:
    """Distil and score every cell of a preset and write its table.

    Args:
        preset: its name in `presets` of presets.yaml.
        settings, accept_code: see `prepare_data`; the settings of a cell come after these.
        force: compute coresets, distilled sets and scores again.
    """
    cells = params.load_cells(preset, settings)
    for chosen in cells.values():
        preflight.check(chosen, "evaluate")
        imported(chosen)
    # Cells that change nothing of experts share them: they are looked up and verified once
    trained: dict[tuple[str, range], Refs] = {}
    made: dict[str, Refs] = {}
    # Cells share what they do not change: `force` must not make it again for each of them
    with caching.forcing_once():
        for cell, chosen in cells.items():
            own, name = [*settings, f"{params.VARIANT}={preset}/{cell}"], f"{preset}/{cell}"
            needed = chosen.space("train_experts"), chosen.experts
            if needed not in trained:
                trained[needed] = train_experts.fn(own, accept_code=accept_code)
            imported(chosen, trained[needed].inputs.digests())
            refs = select_coresets.fn(own, force, accept_code, trained[needed])
            refs = distill.with_options(flow_run_name=name)(own, force, accept_code, refs)
            made[cell] = evaluate.with_options(flow_run_name=name)(own, force, accept_code, refs)
    # Without the user's settings: where they change a cell, published numbers do not compare
    reference = params.load_cells(preset, [f"profile={next(iter(cells.values())).profile}"])
    scores = {cell: refs.scores for cell, refs in made.items()}
    distilled = {cell: refs.distilled for cell, refs in made.items()}
    experts = {cell: refs.experts for cell, refs in made.items()}
    title = params.presets(settings)[preset].title
    files = run(step.write_table, preset, title, cells, reference, scores, distilled, experts)
    print("\n".join(map(str, files)))
    return PresetRefs(made, [str(path) for path in files])


if __name__ == "__main__":
    cli.main("preset")
