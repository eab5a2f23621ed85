"""What was recorded, with what: the facts that a reader needs to repeat a run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gradscope.findings import Diagnosis, Json
from gradscope.ranks import rank_of
from gradscope.reports.page import Section
from gradscope.reports.run_words import optimizers, parameters, recorded
from gradscope.trace import Trace

MOST_FROZEN = 8  # names


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A parameter group.

    Attributes:
        parameters: Names of the model's that it holds.
        cells: Its settings, in the order of the optimizer's.
    """

    parameters: list[str]
    cells: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """An optimizer.

    Attributes:
        title: Its class.
        settings: Names of those that the table shows: that are numbers in one of the groups.
        groups: A line for each.
        shared: The others that are set.
    """

    title: str
    settings: list[str]
    groups: list[Group]
    shared: str


def run_section(trace: Trace, _: Diagnosis) -> Section:
    """The section."""
    return Section(
        anchor="run",
        title="The run",
        template="run.html",
        context={"facts": list(facts(trace)), "optimizers": [optimizer(one) for one in optimizers(trace)]},
    )


def facts(trace: Trace) -> Iterator[tuple[str, str]]:
    """Names and values, in the order in which they are read; what is not known is left out."""
    meta = trace.meta
    for name, key in (("scenario", "scenario"), ("variant", "variant"), ("seed", "seed")):
        if meta.get(key) not in (None, ""):
            yield name, str(meta[key])
    settings = meta.get("settings")
    if isinstance(settings, Mapping) and settings:
        yield "settings", _pairs(settings)
    if meta.get("model"):
        yield "model", str(meta["model"])
    if sizes := parameters(trace):
        yield "parameters", sizes.replace(" parameters", "", 1)
    frozen = meta.get("frozen")
    if isinstance(frozen, list) and frozen:
        more = f" and {len(frozen) - MOST_FROZEN} more" if len(frozen) > MOST_FROZEN else ""
        yield "frozen", ", ".join(map(str, frozen[:MOST_FROZEN])) + more
    yield "steps", recorded(trace)
    if meta.get("every") is not None:
        yield "schedule", _schedule(meta["every"])
    yield "sites", f"{len(trace.sites)} quantities of modules and parameters"
    yield from _over_the_steps(trace)
    if trace.ranks is not None:
        yield "ranks", f"{', '.join(map(str, trace.ranks.ranks))}, merged"
    elif (place := rank_of(trace)) is not None:
        yield "ranks", f"rank {place[0]} of {place[1]} only"
    if meta.get("created"):
        yield "recorded at", str(meta["created"])
    versions = [f"{name} {meta[name]}" for name in ("gradscope", "torch", "python") if meta.get(name)]
    if versions:
        yield "versions", ", ".join(versions)


def _schedule(every: Json) -> str:
    if isinstance(every, int) and not isinstance(every, bool):
        return "every step" if every == 1 else f"every {every} steps"
    return str(every)


def _over_the_steps(trace: Trace) -> Iterator[tuple[str, str]]:
    for key, name in (("loss", "loss"), ("lr", "learning rate"), ("loss_scale", "loss scale")):
        values = trace.per_step.get(key, np.zeros(0))
        rows = np.flatnonzero(~np.isnan(values))
        if not len(rows):
            continue
        first, last = (f"{values[row]:.4g}" for row in rows[[0, -1]])
        if (values[rows] == values[rows[0]]).all():
            yield name, first
        else:  # by their numbers: a loss that ends in NaN has no value in the last step
            yield name, f"{first} in step {trace.steps[rows[0]]}, {last} in step {trace.steps[rows[-1]]}"


def optimizer(about: Mapping[str, Json]) -> Optimizer:
    """An optimizer as the trace holds it."""
    listed = about.get("groups")
    groups = [one for one in listed if isinstance(one, Mapping)] if isinstance(listed, list) else []
    groups = groups or [about]
    rest = [
        key
        for key in dict.fromkeys(key for one in groups for key in one)
        if key not in ("type", "parameters", "groups")
    ]
    shown = [key for key in rest if any(_is_set(one.get(key)) for one in groups)]
    off = [key for key in rest if key not in shown]
    return Optimizer(
        title=str(about.get("type", "optimizer")),
        settings=shown,
        groups=[Group(parameters=_names(one), cells=[_written(one.get(key)) for key in shown]) for one in groups],
        shared=f"off or zero: {', '.join(off)}" if off else "",
    )


def _is_set(value: Json) -> bool:
    return not (value is None or value is False or (value == 0 and not isinstance(value, bool)))


def _names(group: Mapping[str, Json]) -> list[str]:
    listed = group.get("parameters")
    return [str(name) for name in listed] if isinstance(listed, list) else []


def _written(value: Json) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_written(one) for one in value)
    return "" if value is None else str(value)


def _pairs(settings: Mapping[str, Json]) -> str:
    return ", ".join(f"{name} {_written(value)}" for name, value in settings.items())
