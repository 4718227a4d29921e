"""The page: everything the template needs, and its rendering. Captions and names are user data, so
autoescape is always on.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from tasks.reporting import figures
from tasks.reporting.facts import Facts
from tasks.reporting.gallery import Gallery, fit_galleries
from tasks.reporting.headline import headline
from tasks.reporting.published import gap, same_budget
from tasks.reporting.recall_table import beside, crossing, groups_by_size
from tasks.reporting.rendering import environment
from tasks.reporting.tables import PROTOCOLS, is_ceiling, notes
from tasks.reporting.text_tables import Table

MAX_PICTURE_BYTES = 2_200_000


def render(
    summary: pd.DataFrame,
    shown: pd.DataFrame,
    curves: pd.DataFrame,
    histories: pd.DataFrame,
    galleries: Sequence[Gallery],
    facts: Facts,
    *,
    distilled: frozenset[str],
    published: pd.DataFrame | None,
    measures: Table | None,
) -> str:
    """Return the HTML of the report.

    Args:
        summary: all students and protocols.
        shown: the ordered rows of `summary` that the tables and figures show.
        curves: set, epoch, val_mean_recall averaged over seeds; may be empty.
        histories: distillation histories; may be empty.
        distilled: names of the distilled sets.
        measures: what the other tables do not show, None for nothing.
    """
    dataset, student, protocol = facts.dataset, facts.student, facts.protocol
    # Ceilings are rows of tables alone: figures and headline are of students
    drawn = shown[~is_ceiling(shown)]
    styles = figures.method_styles(drawn, distilled)
    sets = [str(name) for name in shown["set"]]
    compared = None
    if published is not None:
        compared = beside(same_budget(published, dataset, shown), shown, distilled)
    gaps = gap(published, dataset, shown, distilled)
    # Bars share one scale; where every method scores zero they have no length.
    largest = max((row.ratio for row in gaps), default=0.0) or 1.0
    context = {
        "headline": headline(drawn, distilled),
        "protocols": PROTOCOLS,
        "distilled": distilled,
        "groups": groups_by_size(shown, distilled),
        "note": notes(shown),
        "recall_chart": figures.recall_by_size(drawn, styles),
        "students": crossing(summary[summary["protocol"] == protocol], "student", sets, student),
        "measures": measures,
        "by_protocol": crossing(summary[summary["student"] == student], "protocol", sets, protocol),
        "beside": compared,
        "gaps": gaps,
        "largest_ratio": largest,
        "learning": figures.learning_curves(curves, drawn, styles) if len(curves) else None,
        "losses": figures.distillation_curves(histories) if len(histories) else None,
        "steps": figures.step_size_curves(histories) if len(histories) else None,
        "galleries": fit_galleries(galleries, MAX_PICTURE_BYTES),
        "sizes": dict(zip(sets, shown["num_pairs"], strict=True)),
    }
    return environment().get_template("page.html.j2").render(**vars(facts), **context)
