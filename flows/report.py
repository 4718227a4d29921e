"""report: the page, tables, plots and metrics of one profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from flows import cli
from flows.evaluate import evaluate
from flows.refs import Refs
from flows.runner import flow, run
from tasks import preflight
from tasks import report as step
from tasks.core.foundations.file_names import PAGE
from tasks.settings import params, steps


@flow("report")
def report(
    settings: Sequence[str] = (),
    force: bool = False,
    accept_code: bool = False,
    refs: Refs | None = None,
) -> Refs:
    """Write `reports/<profile>/`, and print where its page is.

    Args:
        settings, force, accept_code, refs: see `embed_captions`.
    """
    chosen = params.load(settings)
    preflight.check(chosen, "report")
    refs = refs or evaluate.fn(settings, accept_code=accept_code)
    how = {"force": force, "accept_code": accept_code}
    work = steps.reporting(chosen)
    shown = (refs.inputs.prepared, refs.scores, refs.galleries, list(refs.distilled.values()))
    page = run(step.write_report, work, *shown, refs.all(), **how)
    print(f"report: {Path(page.path) / PAGE}")
    return replace(refs, report=page)


if __name__ == "__main__":
    cli.main("report")
