"""What sets cost, read from manifests: experts once a set that reads them, and gaps left empty."""

from __future__ import annotations

from tasks.reporting.costs import COLUMNS, costs
from tasks.store import artifacts
from tasks.store.artifacts import Key, Ref


def _made(folder, facts: dict[str, object], inputs: dict[str, str] | None = None) -> Ref:
    def build(place) -> dict[str, object]:
        (place / "content").write_text(str(folder))
        return facts

    key = Key("distill", {}, inputs or {}, "code")
    manifest = artifacts.write(folder, key, build, {}, modules={}, because=None)
    return Ref(str(folder), manifest.digest)


def test_seconds_hold_the_experts_that_a_set_reads(tmp_path):
    experts = [_made(tmp_path / f"expert_{index}", {"seconds": 10.0 + index}) for index in range(3)]
    read = {f"expert_{index:03d}": experts[index].digest for index in range(2)}
    facts = {"seconds": 5.4, "peak_bytes": 3 << 30, "peak_card_bytes": 0}
    matched = _made(tmp_path / "matched", facts, {"prepared": "a", **read})
    free = _made(tmp_path / "free", {"seconds": 2.0})
    sets = {"one": {"bi-20": matched}, "two": {"bi-20": matched, "ridge-20": free}}
    table = costs(sets, [*experts, *experts])
    assert table is not None and table.columns == COLUMNS
    assert table.rows == (
        ("bi-20", "one, two", "5", "26", "3.0", ""),
        ("ridge-20", "two", "2", "2", "", ""),
    )


def test_without_a_distilled_set_there_is_no_table():
    assert costs({"one": {}}, []) is None
