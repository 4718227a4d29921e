"""Units are made in order, as many at once as there are workers; what fails fails alone."""

from __future__ import annotations

from flows.sweeps import loop
from flows.sweeps.units import Outcome, Unit


class InTurn:
    """Workers that end their units in the order in which they began; those named in `broken` fail,
    and those in `lost` lose their process as often as they are named.
    """

    def __init__(self, size: int, broken: tuple[str, ...] = (), lost: tuple[str, ...] = ()) -> None:
        self.size, self.broken, self.lost = size, broken, list(lost)
        self.begun: list[str] = []
        self.open: list[Unit] = []
        self.most = 0

    def start(self, unit: Unit) -> None:
        self.begun.append(unit.id)
        self.open.append(unit)
        self.most = max(self.most, len(self.open))

    def ended(self) -> list[tuple[str, Outcome]]:
        unit = self.open.pop(0)
        if unit.id in self.lost:
            self.lost.remove(unit.id)
            return [(unit.id, Outcome("its process is gone", is_lost=True))]
        reason = "it broke" if unit.id in self.broken else None
        return [(unit.id, Outcome(reason))]


def unit(name: str, *needs: str) -> Unit:
    return Unit(name, name, "cell", {}, needs)


def made(pool: InTurn, units: list[Unit], further: dict[str, list[Unit]] | None = None):
    heard = {}

    def hear(one: Unit, outcome: Outcome) -> list[Unit]:
        assert one.id not in heard
        heard[one.id] = outcome.reason
        return (further or {}).get(one.id, [])

    loop.run(units, pool, hear)
    return heard


def test_units_wait_for_what_they_need_and_for_a_worker():
    pool = InTurn(2)
    heard = made(pool, [unit("a"), unit("b", "a"), unit("c", "a", "b"), unit("d"), unit("e")])
    assert heard == dict.fromkeys("abcde") and pool.most == 2
    assert pool.begun.index("a") < pool.begun.index("b") < pool.begun.index("c")


def test_what_needs_a_failed_unit_never_starts_and_says_why():
    pool = InTurn(1, ("b",))
    heard = made(pool, [unit("a"), unit("b"), unit("c", "b"), unit("d", "c"), unit("e", "a")])
    assert pool.begun == ["a", "b", "e"]
    assert heard["a"] is None and heard["e"] is None and heard["b"] == "it broke"
    assert heard["c"] == "it needs b, which failed: it broke"
    assert heard["d"] == "it needs c, which failed: it needs b, which failed: it broke"


def test_what_was_lost_is_tried_once_more_before_what_waits():
    pool = InTurn(1, lost=("a", "b", "b"))
    heard = made(pool, [unit("a"), unit("b"), unit("c")])
    assert pool.begun == ["a", "a", "b", "b", "c"]
    assert heard == {"a": None, "b": "its process is gone", "c": None}


def test_an_ended_unit_may_ask_for_further_ones():
    pool = InTurn(3)
    assert set(made(pool, [unit("a")], {"a": [unit("b"), unit("c", "b")]})) == {"a", "b", "c"}
