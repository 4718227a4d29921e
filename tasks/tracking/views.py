"""How MLflow's page shows a sweep: a saved view, which everybody finds under `Views`.

It names the cells, best first, with a column for each value that the sweep changes, and has a chart
with parallel coordinates. MLflow 3.17 keeps a view as a tag of the experiment, in this form. A
version that reads another form shows its own columns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping

TAG = "mlflow.sharedViewState."
BEST = "val/chosen_mean_recall"
SHOWN = (
    BEST,
    f"{BEST}_std",
    "test/mean_recall",
    "test/over_random",
    "test/over_equal_bytes",
)
SECTION, CHART = "sweep", "parallel"
CHART_HEIGHT = 480  # pixels
PIXELS = 7  # of a letter


def key_of(profile: str, sweep: str) -> str:
    """Return what an address calls the view of a sweep."""
    return f"sweep-{profile}-{sweep}"


def view_of(profile: str, sweep: str, query: str, swept: Iterable[str]) -> Mapping[str, str]:
    """Return the view of a sweep as a tag of its experiment.

    Args:
        query: finds its cells, in MLflow's words.
        swept: parameters that it changes.
    """
    names = list(swept)
    columns = [
        *(_column("params", name) for name in names),
        *(_column("metrics", name) for name in SHOWN),
    ]
    section = {
        "uuid": SECTION,
        "name": f"Sweep {sweep}",
        "display": True,
        "isReordered": True,
        "columns": 1,
        "cardHeight": CHART_HEIGHT,
    }
    chart = {
        "uuid": CHART,
        "type": "PARALLEL",
        "metricSectionId": SECTION,
        "selectedParams": names,
        "selectedMetrics": [BEST],
        "showAllRuns": True,
    }
    state = {
        "searchFilter": query,
        "orderByKey": _column("metrics", BEST),
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        # As wide as the name: names of parameters begin alike, and MLflow would cut their ends
        "columnWidths": {column: PIXELS * len(column) for column in columns},
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,
        "compareRunSections": [{**section, "deleted": False, "isGenerated": False}],
        "compareRunCharts": [{**chart, "deleted": False, "isGenerated": False}],
    }
    now = int(time.time() * 1000)
    told = {"name": f"sweep {sweep} of {profile}", "createdAt": now, "updatedAt": now}
    return {f"{TAG}{key_of(profile, sweep)}": json.dumps({**told, "state": json.dumps(state)})}


def _column(kind: str, name: str) -> str:
    return f"{kind}.`{name}`"
