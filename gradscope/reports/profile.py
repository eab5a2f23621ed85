"""How large a quantity is along the depth of a model or along its sequence: what charts and figures draw.

One number a place: the median over the recorded steps of the rms. Beside it, what a median would hide: NaN or Inf in
any step, and places that were never observed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradscope.records import PARAMETER_QUANTITIES, Quantity, Site, Statistic
from gradscope.trace import Doubles, Floats, Trace

# The whole gradient of a state first; the gradient of a fused layer's output sequence is only its local part.
TIME_QUANTITIES = (Quantity.STATE_GRAD, Quantity.INPUT_GRAD, Quantity.OUTPUT_GRAD)
FEWEST_TIMES = 8  # shorter sequences, and modules that ran a few times a step, are no story about time
FEWEST_LAYERS, FEWEST_LAYERS_WITH_TIME = 3, 7  # fewer make no story about depth

SYMBOL = {
    Quantity.INPUT: "x",
    Quantity.OUTPUT: "y",
    Quantity.INPUT_GRAD: "∂L/∂x",
    Quantity.OUTPUT_GRAD: "∂L/∂y",
    Quantity.STATE: "h",
    Quantity.STATE_GRAD: "∂L/∂h",
    Quantity.WEIGHT: "w",
    Quantity.WEIGHT_GRAD: "∂L/∂w",
    Quantity.APPLIED_GRAD: "∂L/∂w as applied",
    Quantity.WEIGHT_UPDATE: "Δw",
    Quantity.LOSS: "loss",
    Quantity.TOTAL_NORM: "‖∂L/∂w‖",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profile:
    """rms of one quantity along one axis.

    Attributes:
        axis: Along the layers, or along the positions of a sequence.
        quantity: Whose rms.
        where: The module, for an axis of time; else "".
        places: A name for each position of the axis.
        modules: The module at each position, "" on an axis of time.
        rms: Median over the steps; NaN where no step has a finite value. Shape (place,).
        nonfinite: Whether any step had NaN or Inf there. Shape (place,).
        seen: Whether it was observed in any step. Shape (place,).
    """

    axis: Literal["depth", "time"]
    quantity: Quantity
    where: str
    places: tuple[str, ...]
    modules: tuple[str, ...]
    rms: Doubles
    nonfinite: NDArray[np.bool_]
    seen: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.places)

    @property
    def positive(self) -> Doubles:
        """The values that a logarithmic axis can show."""
        return self.rms[np.isfinite(self.rms) & (self.rms > 0)]

    @property
    def first_to_last(self) -> float:
        """The first place's rms over the last's; for a gradient, what is left of it after its way back."""
        ends = self.rms[np.isfinite(self.rms)]
        return float(ends[0] / ends[-1]) if len(ends) and ends[-1] > 0 else float("nan")


def depth_profile(traces: Sequence[Trace], quantity: Quantity) -> Profile | None:
    """The profile over the layers of one model, recorded in one or more runs; None if nothing was observed."""
    sites, _ = traces[0].by_depth(quantity, Statistic.RMS)
    if not sites:
        return None
    parts = [trace.by_depth(quantity, s) for s in _READ for trace in traces if trace.by_depth(quantity, s)[0] == sites]
    stacked = np.split(np.concatenate([values for _, values in parts]), len(_READ))
    return _profile(stacked, "depth", quantity, "", tuple(map(place, sites)), tuple(s.module for s in sites))


def depth_story(traces: Sequence[Trace]) -> Profile | None:
    """The gradient by depth, if the depth is what matters: not in a few layers around a recurrence."""
    profile = depth_profile(traces, Quantity.OUTPUT_GRAD)
    if profile is None or len(profile) < (FEWEST_LAYERS_WITH_TIME if time_profile(traces) else FEWEST_LAYERS):
        return None
    return profile


def time_profile(traces: Sequence[Trace]) -> Profile | None:
    """The profile of a gradient over the sequence; None if no gradient has at least `FEWEST_TIMES` positions."""
    site = _time_site(traces[0])
    if site is None:
        return None
    read = [[t.by_time(site.module, site.quantity, s, name=site.name) for t in traces] for s in _READ]
    length = min(values.shape[1] for values in read[0])  # sequences of other runs may be longer
    stacked = [np.concatenate([values[:, :length] for values in of_statistic]) for of_statistic in read]
    places = tuple(str(t) for t in range(length))
    return _profile(stacked, "time", site.quantity, site.module, places, ("",) * length)


def place(site: Site) -> str:
    """A site's name on an axis: the module, with the parameter or the part of a nested output where there is one."""
    module = site.module or "(model)"
    if site.quantity in PARAMETER_QUANTITIES:
        return module if site.name == "weight" else f"{module}.{site.name}"
    return f"{module}[{site.name}]" if site.name not in ("", "0") else module


def without_shared_prefix(names: Sequence[str]) -> list[str]:
    """The names without the dotted parts that all of them begin with; the last part stays."""
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1 and len(parts) > 1:
        shared += 1
    return [".".join(p[shared:]) for p in parts]


_READ = (Statistic.RMS, Statistic.NONFINITE_COUNT, Statistic.NUMEL)


def _profile(
    stacked: Sequence[Floats],
    axis: Literal["depth", "time"],
    quantity: Quantity,
    where: str,
    places: tuple[str, ...],
    modules: tuple[str, ...],
) -> Profile:
    rms, nonfinite_count, numel = (np.asarray(values, dtype=np.float64) for values in stacked)
    broken: NDArray[np.bool_] = np.any(nonfinite_count > 0, axis=0)
    unseen: NDArray[np.bool_] = np.all(np.isnan(numel), axis=0)
    finite = np.isfinite(rms)
    median = np.full(len(places), np.nan)
    for i in np.flatnonzero(finite.any(axis=0)):
        median[i] = np.median(rms[finite[:, i], i])
    return Profile(
        axis=axis,
        quantity=quantity,
        where=where,
        places=places,
        modules=modules,
        rms=median,
        nonfinite=broken,
        seen=~unseen,
    )


def _time_site(trace: Trace) -> Site | None:
    if not len(trace.times.site):
        return None
    longest = np.zeros(len(trace.sites), dtype=np.int64)
    np.maximum.at(longest, trace.times.site, trace.times.time + 1)
    for quantity in TIME_QUANTITIES:
        for column in trace.columns(quantity):
            if longest[column] >= FEWEST_TIMES:
                return trace.sites[column]
    return None
