"""Lists the gradient engines: what each needs, what it can do, and what computes it.

The choices of `engine` in params.yaml, the checks of the options and the dispatch come from this
list. A further engine is a file of its own and an entry here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from tasks.core.hypergradient.differences import CENTRAL, ONE_SIDED, DifferenceSteps
from tasks.core.hypergradient.exact_steps import ExactSteps
from tasks.core.hypergradient.second_order import DoubleBackward, ForwardOverReverse
from tasks.core.hypergradient.student_step import StudentStep
from tasks.core.hypergradient.sweep import Gradient, Terminal, Trajectory, reverse_sweep
from tasks.core.hypergradient.unroll import unroll
from tasks.core.networks.precision import Precision

# In messages, the texts below follow the name of the engine
_NOISE = "whose differences of rounded numbers are noise; allowed is float32, or an exact engine"
_ROUNDED: Mapping[Precision, str] = {"tf32": _NOISE, "bfloat16": _NOISE}
_WHOLE = "does not cut a step into micro-batches"
_MIXED = (
    "whose forward derivatives torch does not form of bfloat16 and float32 together; allowed is "
    "double_backward, also exact"
)


@dataclass(frozen=True)
class Engine:
    """One way to get the gradient of a trajectory.

    Attributes:
        name: as params.yaml has it.
        gradient: computes the gradient from the student's step, the trajectory, the terminal loss,
            and whether parameter vectors lie on the host.
        needs_second_derivatives: whether each operation of the network needs a second derivative.
            Attention then runs the math kernel, and a trained encoder cannot be compiled.
        cannot: options for saving memory that do not work with this engine, each with the reason.
        refused_precisions: precisions of matrix products that do not work with this engine, each
            with the reason and what is allowed.
    """

    name: str
    gradient: Callable[[StudentStep, Trajectory, Terminal, bool], Gradient]
    needs_second_derivatives: bool = True
    cannot: Mapping[str, str] = field(default_factory=dict)
    refused_precisions: Mapping[Precision, str] = field(default_factory=dict)


_LISTED = (
    Engine(
        "unroll",
        unroll,
        cannot={
            "is_theta_on_host": "keeps the graphs of all steps on the device whatever is asked",
            "micro_batch": _WHOLE,
        },
    ),
    Engine(
        "double_backward",
        partial(reverse_sweep, make_steps=partial(ExactSteps, how=DoubleBackward())),
    ),
    Engine(
        "forward_over_reverse",
        partial(reverse_sweep, make_steps=partial(ExactSteps, how=ForwardOverReverse())),
        # Under autocast, parameters stay float32 while activations are bfloat16
        refused_precisions={"bfloat16": _MIXED},
    ),
    Engine(
        "central_difference",
        partial(reverse_sweep, make_steps=partial(DifferenceSteps, rules=CENTRAL)),
        needs_second_derivatives=False,
        refused_precisions=_ROUNDED,
    ),
    Engine(
        "forward_difference",
        partial(reverse_sweep, make_steps=partial(DifferenceSteps, rules=ONE_SIDED)),
        needs_second_derivatives=False,
        refused_precisions=_ROUNDED,
    ),
    Engine(
        "tesla",
        partial(
            reverse_sweep, make_steps=partial(ExactSteps, how=DoubleBackward(), is_biased=True)
        ),
        cannot={"micro_batch": _WHOLE},
    ),
)
ENGINES = {engine.name: engine for engine in _LISTED}
DIFFERENCES = tuple(engine.name for engine in _LISTED if not engine.needs_second_derivatives)


def check_memory(name: str, *, micro_batch: int | None, is_theta_on_host: bool, where: str) -> None:
    """Raise ValueError when an engine cannot save memory as it is asked to.

    Args:
        name: of the engine.
        micro_batch, is_theta_on_host: see `trajectory_gradient`.
        where: place of the options, for the message.
    """
    cannot = ENGINES[name].cannot
    asked = {"is_theta_on_host": is_theta_on_host, "micro_batch": micro_batch}
    for option, instead in (("is_theta_on_host", "false"), ("micro_batch", "null")):
        if asked[option] and option in cannot:
            allowed = ", ".join(other.name for other in _LISTED if option not in other.cannot)
            raise ValueError(
                f"{where}: the engine {name!r} {cannot[option]}; received {option} "
                f"{str(asked[option]).lower()}; allowed are {allowed}; change "
                f"`engine` or set `{option}: {instead}`"
            )
