"""Recurrences that are written out: a layer whose output comes back as its own input, with no cell around it.

    for t in range(T):
        h = torch.tanh(self.drive(x[:, t]) + self.state(h))        # `state` is given what it has made before

What such a layer was given in its call t + 1 is the state after t, and the gradient there is ∂L/∂h_t, as of a cell in a
loop; what the loss adds at each position cannot be told from what is carried.
"""

from collections.abc import Iterable

import numpy as np

from gradscope.flow import Flow, flow_of
from gradscope.records import Quantity, Site, Statistic
from gradscope.recurrence import Recurrence, gain_between, geometric_mean, lag_of
from gradscope.trace import Doubles, Trace


def loops(trace: Trace, known: Iterable[str]) -> tuple[Recurrence, ...]:
    """Every layer that is in a loop of its own, by depth; none inside of the cells `known`, or that runs with them."""
    flow, cells = flow_of(trace), tuple(known)
    if flow is None:
        return ()
    weighted = {trace.sites[c].module for c in trace.columns(Quantity.WEIGHT)}
    found = []
    for column in trace.columns(Quantity.INPUT_GRAD):
        site = trace.sites[column]
        inside = any(site.module.startswith(f"{cell}.") or site.module == cell or not cell for cell in cells)
        if site.module not in weighted or inside or not _comes_back(flow, site.module):
            continue
        if not any(flow.is_before(cell, site.module) and flow.is_before(site.module, cell) for cell in cells):
            recurrence = _recurrence(trace, site, column)
            found += [recurrence] if recurrence is not None else []
    return tuple(found)


def _comes_back(flow: Flow, module: str) -> bool:
    """Whether what `module` returns in its first call reaches it in a later one."""
    calls = flow.given(module)
    return len(calls) > 1 and not flow.descendants(flow.returned(module)[:1]).isdisjoint(calls[1:])


def _recurrence(trace: Trace, site: Site, column: int) -> Recurrence | None:
    """Position t is what the call t + 1 was given."""
    size, norm, broken = (
        trace.by_time(site.module, site.quantity, stat, name=site.name).astype(np.float64)[:, 1:]
        for stat in (Statistic.RMS, Statistic.L2_NORM, Statistic.NONFINITE_COUNT)
    )
    size[broken > 0] = norm[broken > 0] = np.nan
    steps = np.flatnonzero((~np.isnan(size)).any(axis=1))
    if not len(steps):
        return None
    size, norm = size[steps], norm[steps]
    gain = gain_between(norm, norm, size, reverse=False)
    unknown: Doubles = np.full(len(steps), np.nan)
    return Recurrence(
        module=site.module,
        module_type=site.module_type,
        suffix="",
        mode="",
        reverse=False,
        columns=(column,),
        step=steps,
        start=np.ones(len(steps), dtype=np.int64),
        window=np.full(len(steps), size.shape[1]),
        cut=np.zeros(len(steps), dtype=bool),
        arriving=size,
        carried=None,
        gain=gain,
        cell_gain=None,
        gain_per_step=geometric_mean(gain),
        lag=lag_of(size),
        forget=None,
        time_constant=None,
        slope=unknown,
        spectral_radius=unknown,
        spectral_norm=unknown,
    )
