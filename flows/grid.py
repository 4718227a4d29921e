"""Which sets, method x size, a flow computes."""

from __future__ import annotations

from collections.abc import Iterable

from tasks.core.foundations.names import hint
from tasks.settings.sets import SetName


def sets(
    kind: str,
    methods: Iterable[str],
    budgets: Iterable[int],
    method: str | None,
    num_pairs: int | None = None,
) -> list[SetName]:
    """Return the names of the sets: methods x budgets, or only those of one method or one size.

    Args:
        methods, budgets: all that the parameters name.
        method, num_pairs: only this one; None takes all.
        kind: `coresets` or `distillers`, for messages.

    Raises:
        ValueError: a method or size that the parameters do not name.
    """
    names, sizes = list(methods), list(budgets)
    if method is not None and method not in names:
        raise ValueError(
            f"--method: received {method!r}{hint(method, names)}; allowed: "
            f"{', '.join(names) or 'none'}; change methods.{kind} of params.yaml"
        )
    if num_pairs is not None and num_pairs not in sizes:
        raise ValueError(
            f"num_pairs: received {num_pairs}; allowed: {', '.join(map(str, sizes))}; change "
            "`budgets` of the profile"
        )
    wanted = names if method is None else [method]
    chosen = sizes if num_pairs is None else [num_pairs]
    return [SetName(name, size) for name in wanted for size in chosen]
