"""The groups of parameters that the optimizers hold, and what each is set to."""

from collections.abc import Mapping
from dataclasses import dataclass

from gradscope.findings import Json
from gradscope.once import once
from gradscope.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Parameters with the same settings.

    Attributes:
        optimizer: Class of the optimizer.
        lr: Learning rate before any schedule; NaN if it has none.
        weight_decay: 0 without.
        decoupled: Whether weight decay is a step of its own, as in AdamW, and no part of the gradient.
        eps: Floor of the optimizer's denominator; 0 if it has none.
        of_first: Learning rate of the first group of the first optimizer, which is the one that a trace has over time.
        parameters: Their full names.
    """

    optimizer: str
    lr: float
    weight_decay: float
    decoupled: bool
    eps: float
    of_first: float
    parameters: frozenset[str]


def groups_of(trace: Trace) -> tuple[Group, ...]:
    """All groups of all optimizers; none where the trace does not tell who is in them."""
    optimizers = trace.meta.get("optimizers")
    said = [
        (str(about.get("type", "")), group)
        for about in (optimizers if isinstance(optimizers, list) else [])
        if isinstance(about, Mapping) and isinstance(groups := about.get("groups"), list)
        for group in groups
        if isinstance(group, Mapping)
    ]
    return tuple(_group(name, group, first=_rate(said[0][1])) for name, group in said)


@once
def group_by_parameter(trace: Trace) -> Mapping[str, Group]:
    """The group of each parameter, by its full name."""
    return {name: group for group in groups_of(trace) for name in group.parameters}


def _group(optimizer: str, said: Mapping[str, Json], *, first: float) -> Group:
    members = said.get("parameters")
    return Group(
        optimizer=optimizer,
        lr=_rate(said),
        weight_decay=_number(said, "weight_decay", 0.0),
        decoupled=optimizer == "AdamW" or said.get("decoupled_weight_decay") is True,
        eps=_number(said, "eps", 0.0),
        of_first=first,
        parameters=frozenset(str(name) for name in members) if isinstance(members, list) else frozenset(),
    )


def _rate(said: Mapping[str, Json]) -> float:
    # a schedule keeps the rate that it starts from; a warm-up has set that of now to nearly nothing
    return _number(said, "initial_lr", _number(said, "lr", float("nan")))


def _number(said: Mapping[str, Json], key: str, default: float) -> float:
    value = said.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default
