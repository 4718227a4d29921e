"""Defines the base of every parameter section: a frozen dataclass whose fields carry their range
and unit.

Code without pydantic builds a section directly. `tasks/settings/params.py` builds the same class
from params.yaml through pydantic, which checks types and ranges (`Range`) and refuses unknown keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar


@dataclass(frozen=True)
class Range:
    """Bounds of a number, for use as `Annotated[float, Range(gt=0.0)]`.

    Args:
        ge, gt: inclusive and exclusive lower bound.
        le, lt: inclusive and exclusive upper bound.
        unit: what the number counts, for messages ("pairs", "seconds").
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    unit: str = ""

    def check(self, value: Any) -> Any:
        """Return `value` (a number, or None) when it lies inside the bounds; raise ValueError
        otherwise.
        """
        if value is None:
            return value
        is_inside = (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )
        if not is_inside:
            raise ValueError(f"received {value!r}, allowed is {self}")
        return value

    def __str__(self) -> str:
        bounds = [(">=", self.ge), (">", self.gt), ("<=", self.le), ("<", self.lt)]
        text = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)
        return f"{text} {self.unit}".strip()

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let pydantic apply `check` after its own type check (called only where pydantic is
        installed).
        """
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))


@dataclass(frozen=True)
class Choice:
    """The names that a text may be, for use as `Annotated[str, Choice(*TABLE)]`.

    It is a `Literal` for names that come from a table in place of the source text.
    """

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        # A frozen dataclass has no other way to set a field in its own __init__
        object.__setattr__(self, "names", names)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Let pydantic allow these names and no other (called only where pydantic is installed)."""
        from pydantic_core import core_schema

        return core_schema.literal_schema(list(self.names))


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base class of parameter sections and plugin `Config`s: subclass with `@dataclass(frozen=True,
    kw_only=True)`.
    """

    # strict: no conversion of types, so that "3" is no number and 1 is no bool
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}


@dataclass(frozen=True, kw_only=True)
class NoOptions(Section):
    """The `Config` of a plugin that has none."""


Count = Annotated[int, Range(ge=1)]
BatchSize = Annotated[int, Range(ge=2, unit="pairs")]
Share = Annotated[float, Range(ge=0.0, lt=1.0)]
Rate = Annotated[float, Range(gt=0.0, le=100.0, unit="(step size)")]
