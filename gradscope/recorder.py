"""The running recorder: takes what the probes emit during a step, and closes the step into a `StepRecord`.

Tensors that are large are reduced at once. Small ones on the CPU are copied and reduced together at the end of the
step, where the arithmetic of a thousand of them costs as much as the calls for fifty. What lives on an accelerator
leaves its moments there until the end of the step, so a hook never waits for the device.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gradscope.cut import Cut
from gradscope.links import Link
from gradscope.probes.base import StepListener
from gradscope.processes import local
from gradscope.records import COLUMN, GRADIENT_QUANTITIES, STATISTICS, Event, Quantity, Site, Statistic
from gradscope.rows import Rows, combine, scalar_row, scaled
from gradscope.site_table import SiteTable
from gradscope.sources import seen_from_the_project
from gradscope.statistics import (
    ManyMoments,
    Moments,
    fetch,
    fetch_many,
    fraction_where,
    fractions_where,
    joinable,
    many_moments,
    moments_of,
    rows_of,
    slice_moments,
)
from gradscope.trace import StepRecord
from gradscope.units import Liveness, Predicate

_log = logging.getLogger("gradscope")

RECORDER = "recorder"  # in place of a probe's name, where no probe is to blame
_BACKWARD = -2  # minus the number of the backward pass, of a gradient
_PLACED = frozenset({Quantity.STATE, Quantity.STATE_GRAD, Quantity.GATE})  # a lone row's time means something
_ANY_PASS = -1  # of what belongs to the step and not to a forward pass: parameters, gradients


class StepRecorder:
    """See `probes.base.Recorder` for what probes may ask of it.

    Args:
        module_types: Class names of the model's modules, by name.
        advance: Called at a boundary, from within a hook, when the next forward begins.
    """

    def __init__(self, module_types: Mapping[str, str], advance: Callable[[], None]) -> None:
        self.on = False
        self.step = 0
        self.boundary = True
        self.explicit = False  # the user ends the steps
        self.forward = 0
        self.backward_ran = False
        self.one_of_several = False  # processes: what a merge needs is recorded too
        self.sharded = False
        self.events: list[Event] = []
        self.failed_probes: set[str] = set()
        self.table = SiteTable(module_types)
        self._advance = advance
        self.passed = False
        self.by_backward = True
        self.gradient_arrives: Callable[[], None] = _nothing
        self.computes_again: Callable[[], None] = _nothing
        self._optimizers: list[Callable[[torch.optim.Optimizer, ExitStack], None]] = []
        self._listeners: list[tuple[StepListener, str]] = []
        self._told_of_several = False
        self.blind_spots: dict[str, str] = {}
        self._observed = np.zeros(0, dtype=bool)  # which sites have had a value in any step
        self.liveness = Liveness()
        self._clear()

    def _clear(self) -> None:
        # three parallel lists instead of one of records: this is the hot path
        self._where: list[tuple[int, int, int]] = []  # pass, site, time of each entry of _moments
        self._moments: list[Moments] = []
        self._small_where: list[tuple[int, int, int]] = []
        self._small: list[Tensor] = []
        self._aliases: list[tuple[int, int, int, int, int]] = []
        self._batches: list[tuple[NDArray[np.int64], ManyMoments]] = []  # the same, many at a time
        self._derived: list[tuple[int, Statistic, Tensor | float]] = []
        self._withheld: list[tuple[int, int]] = []
        self._returned: list[tuple[str, Tensor]] = []
        self._saturable: dict[Predicate, list[tuple[int, Tensor]]] = {}
        self._losses: list[Tensor | float] = []
        self._touched: set[tuple[int, int]] = set()  # forward pass, and the backward that reached it
        self.training_tasks: set[int] = set()
        self._outer: dict[int, int] = {}  # of a backward pass within another, that other one
        self.forward = 0
        self.backward_ran = False

    # ---------------------------------------------------------------- what probes ask

    def site(self, module: str, quantity: Quantity, name: str = "") -> int:
        """Index of a site; registers it when it is new."""
        return self.table.index(module, quantity, name)

    def completed(self, module: str, module_type: str | None = None) -> None:
        """`module` has run: it gets the next depth if it has none."""
        self.table.completed(module, module_type)

    def written(self, module: str, file: str, line: int) -> None:
        """The call that is the site `module` stands there."""
        self.table.calls[module] = (file, line)

    def cut(self, function: str, file: str, line: int, modules: frozenset[str]) -> None:
        """A call of `function` there takes what `modules` have computed out of the graph."""
        self.table.cuts.append(Cut(function=function, file=seen_from_the_project(file), line=line, modules=modules))

    def linked(self, link: Link, source_call: int, target_call: int) -> None:
        """What a module was given comes from there."""
        self.table.links.add(link, source_call, target_call)

    def computes_in(self, name: str, dtype: torch.dtype) -> None:
        """`name`, a module or a full parameter's, returns or has numbers of `dtype`."""
        if dtype is not torch.float32:
            self.table.dtypes[name] = str(dtype).removeprefix("torch.")

    def returned(self, container: str, total: Tensor) -> None:
        """The elements of what `container` has returned add up to `total`."""
        self._returned.append((container, total))

    def passed_by(self, module: str) -> None:
        """`module` has run without gradients: its place is kept, should it be computed again for the backward."""
        self.table.passed_by(module)

    def arrived(self) -> None:
        """A parameter has got a gradient."""
        if self.boundary or self.by_backward:
            self.gradient_arrives()
        self.backward_ran = True

    def on_optimizer(self, listener: Callable[[torch.optim.Optimizer, ExitStack], None]) -> None:
        """`listener` gets every optimizer, and where its hooks have to be given back."""
        self._optimizers.append(listener)

    def new_optimizer(self, optimizer: torch.optim.Optimizer, handles: ExitStack) -> None:
        """`optimizer` is watched from now on, until `handles` is closed."""
        self.by_backward = False
        for listener in self._optimizers:
            listener(optimizer, handles)

    def advance(self) -> None:
        """Ends the step at whose boundary we are; inside of backward, where a checkpoint computes again, perhaps."""
        if torch._C._current_graph_task_id() == -1:
            self._advance()
        else:
            self.computes_again()

    def emit(self, site: int, tensor: Tensor, time: int = 0, saturated: Predicate | None = None) -> None:
        """Reduces `tensor` to its statistics, or copies it where that is cheaper."""
        tensor = local(tensor)
        self._emit(self.forward, site, tensor, time)
        if saturated is None:
            return
        if joinable(tensor) and tensor.dtype is torch.float32:
            self._saturable.setdefault(saturated, []).append((site, self._small[-1]))
        else:
            self._derived.append((site, Statistic.SATURATED_FRACTION, fraction_where(tensor, saturated)))

    def _emit(self, forward: int, site: int, tensor: Tensor, time: int) -> None:
        tensor = local(tensor)
        if joinable(tensor):
            self._small.append(tensor.detach().clone())
            self._small_where.append((forward, site, time))
        else:
            self._moments.append(moments_of(tensor))
            self._where.append((forward, site, time))

    def emit_slices(self, site: int, tensor: Tensor, axis: int, time: int = 0, *, mark: int | None = None) -> None:
        """`emit` for every position along `axis`, of this forward pass or of the one that `mark` stands for."""
        self._emit_slices(self.forward if mark is None else mark, site, tensor, axis, time)

    def _emit_slices(self, forward: int, site: int, tensor: Tensor, axis: int, time: int) -> None:
        moments = slice_moments(local(tensor), axis)
        where = np.empty((len(moments), 3), dtype=np.int64)
        where[:, 0], where[:, 1], where[:, 2] = forward, site, np.arange(time, time + len(moments))
        self._batches.append((where, moments))

    def emit_many(self, sites: Sequence[int], tensors: Sequence[Tensor]) -> None:
        """`emit` for each pair, of the step and not of a forward pass."""
        if len(sites) == 1:
            self._moments.append(moments_of(tensors[0]))
            self._where.append((_ANY_PASS, sites[0], 0))
        elif sites:
            where = np.zeros((len(sites), 3), dtype=np.int64)
            where[:, 0], where[:, 1] = _ANY_PASS, sites
            self._batches.append((where, many_moments(tensors)))

    def emit_gradient_of(self, site: int, grad: Tensor) -> None:
        """`emit` for a parameter's gradient: of the step and not of a forward pass."""
        self._emit(_ANY_PASS, site, grad, 0)

    def emit_gradient(
        self, step: int, forward: int, site: int, time: int, axis: int | None, grad: Tensor | None
    ) -> None:
        """`emit` for a gradient; called by autograd, with None where of a node's outputs this one was not used."""
        mark = self.mark_backward(step, forward)
        if mark is None or grad is None:
            return
        try:
            if axis is None:
                self._emit(mark, site, grad, time)
            else:
                self._emit_slices(mark, site, grad, axis, time)
        except Exception as error:
            self.failed("gradients", error)

    def mark_backward(self, step: int, forward: int) -> int | None:
        """Stands for the running backward pass; notes that it has reached pass `forward` of `step`."""
        if not self.on:
            return None
        task = torch._C._current_graph_task_id()
        if step == self.step:
            self._touched.add((forward, task))
        if self.sharded:  # FSDP2 calls no hook of a parameter in a backward that reduces nothing
            self.training_tasks.add(task)
        self.backward_ran = True
        return _BACKWARD - task

    def nested(self, outer: int) -> None:
        """The running backward pass is a part of `outer`."""
        task = torch._C._current_graph_task_id()
        if task != outer:
            self._outer[task] = outer

    def is_nested(self, task: int) -> bool:
        """Whether the backward pass `task` is part of another."""
        return task in self._outer

    def same(self, site: int, time: int, source: int, source_time: int) -> None:
        """The statistics of `source` are those of `site` too."""
        self._aliases.append((_ANY_PASS, site, time, source, source_time))

    def derive(self, site: int, stat: Statistic, value: Tensor | float) -> None:
        """Adds one number to what is known of `site` in this step."""
        self._derived.append((site, stat, value))

    def withhold(self, site: int, stat: Statistic) -> None:
        """Leaves out what is derived of `stat` at `site` in this step."""
        self._withheld.append((site, COLUMN[stat]))

    def on_step(self, listener: StepListener, probe: str) -> None:
        """`listener` is told when a recorded step begins and ends, unless its probe has failed."""
        self._listeners.append((listener, probe))

    def tell(self, kind: str, module: str, message: str) -> None:
        """An event of the running step."""
        self.events.append(Event(step=self.step, kind=kind, module=module, message=message))

    def blind(self, module: str, why: str) -> None:
        """`module` cannot be seen, or not all of it: `why` says so in the words that follow its name."""
        self.blind_spots.setdefault(module, why)

    def failed(self, probe: str, error: Exception) -> None:
        """Reports the first failure of a probe, in the log and in the trace, and stops listening to it."""
        if probe in self.failed_probes:
            return
        self.failed_probes.add(probe)
        what = f"probe {probe!r} failed" if probe != RECORDER else "the recording failed"
        end = "it was detached" if probe != RECORDER else "nothing more is recorded"
        message = f"{what} in step {self.step}, {end}: {type(error).__name__}: {error}"
        self.events.append(Event(step=self.step, kind="probe-failed", message=message))
        # not a warning: under -W error that would raise into the training
        _log.warning("gradscope: %s", message, exc_info=error if _log.isEnabledFor(logging.DEBUG) else None)

    # ---------------------------------------------------------------- what the scope asks

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites registered so far."""
        return self.table.sites

    def observed(self, quantities: frozenset[Quantity]) -> list[Site]:
        """The sites of `quantities` that have had a value in any step."""
        return [self.sites[i] for i in np.flatnonzero(self._observed) if self.sites[i].quantity in quantities]

    @property
    def holds_something(self) -> bool:
        """Whether anything was emitted in the running step."""
        return bool(self._where or self._small_where or self._batches)

    def add_loss(self, loss: Tensor | float) -> None:
        """One of the losses of the running step; their mean is recorded."""
        self._losses.append(loss.detach() if isinstance(loss, Tensor) else loss)

    def begin_step(self) -> None:
        """The first forward of a recorded step is about to run."""
        self._tell_listeners(lambda listener: listener.begin())

    def end_step(self, *, lr: float, loss_scale: float, skipped: bool = False) -> StepRecord:
        """Closes the step: everything that was emitted, as statistics; without gradients if it was `skipped`."""
        self._tell_listeners(lambda listener: listener.end())
        if self._losses:
            self.site("", Quantity.LOSS)
        totals = self.table.totals()
        where, rows = self._reduced()
        placed = np.flatnonzero(self.table.are(_PLACED))
        values, time_index, time_values = _by_site(where, rows, len(self.table), placed)
        losses = [float(loss) for loss in self._losses]
        if losses:
            values[self.site("", Quantity.LOSS)] = scalar_row(sum(losses) / len(losses))
        self._add_derived(values)
        if self._returned and np.nansum(values[:, COLUMN[Statistic.NONFINITE_COUNT]]) > 0:
            finite = np.isfinite(_numbers([total for _, total in self._returned]))
            self.table.break_containers(self.step, [self._returned[i][0] for i in np.flatnonzero(~finite)])
        if loss_scale not in (1.0, 0.0) and np.isfinite(loss_scale):
            self._unscale(values, time_index, time_values, 1.0 / loss_scale)
        if skipped:
            gradients = self.table.are(GRADIENT_QUANTITIES)
            values[gradients] = np.nan
            kept = ~gradients[time_index[:, 0]]
            time_index, time_values = time_index[kept], time_values[kept]
        totals.add_to(values)
        seen = ~np.isnan(values[:, COLUMN["numel"]])
        seen[: len(self._observed)] |= self._observed
        self._observed = seen
        record = StepRecord(
            step=self.step,
            per_step={"loss": sum(losses) / len(losses) if losses else np.nan, "lr": lr, "loss_scale": loss_scale},
            values=values,
            time_index=time_index,
            time_values=time_values,
            events=tuple(self.events),
            silent=tuple(self.liveness.silent()) if self.one_of_several else (),
        )
        self.events = []
        self._clear()
        return record

    def _tell_listeners(self, edge: Callable[[StepListener], None]) -> None:
        for listener, probe in self._listeners:
            if probe not in self.failed_probes:
                try:
                    edge(listener)
                except Exception as error:
                    self.failed(probe, error)

    def drop_step(self) -> None:
        """Forgets what the running step has emitted."""
        self.liveness.forget_step()
        self._clear()

    def release(self) -> None:
        """Nothing more will be recorded: lets go of the probes, and by that of the model."""
        self._listeners.clear()
        self._optimizers.clear()
        self.gradient_arrives = self.computes_again = _nothing

    # ---------------------------------------------------------------- closing a step

    def _reduced(self) -> tuple[NDArray[np.int64], Rows]:
        """Everything that was emitted: (entry, 3) with pass, site and time, and (entry, statistic)."""
        batches = fetch_many([moments for _, moments in self._batches])
        moments = np.concatenate([fetch(self._moments), many_moments(self._small), *batches])
        single = np.array(self._where + self._small_where, dtype=np.int64).reshape(-1, 3)
        where = np.concatenate([single, *(w for w, _ in self._batches)])
        where, moments = self._of_training(where, moments)
        rows = rows_of(moments)
        if self._aliases:
            aliases = np.array(self._aliases, dtype=np.int64)
            sources = _last_of(where[:, 1:], aliases[:, 3:])
            found = sources >= 0
            where = np.concatenate([where, aliases[found, :3]])
            rows = np.concatenate([rows, rows[sources[found]]])
        return where, rows

    def _of_training(
        self, where: NDArray[np.int64], moments: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Leaves out evaluation: forward passes that no backward reached, backward passes that trained no parameter.

        Where nothing was trained (or nobody looked at the parameters) everything stays.
        """
        for inner in sorted(self._outer, reverse=True):  # a pass within a pass within a pass: the last begun first
            where[where[:, 0] == _BACKWARD - inner, 0] = _BACKWARD - self._outer[inner]
        tasks = {self._whole(task) for task in self.training_tasks}
        touched = {forward for forward, task in self._touched if not tasks or self._whole(task) in tasks}
        passes = where[:, 0]
        kept = np.ones(len(where), dtype=bool)
        if touched:
            kept &= (passes < 0) | _among(passes, touched)
        if tasks:
            kept &= (passes > _BACKWARD) | _among(_BACKWARD - passes, tasks)
        where, moments = where[kept], moments[kept]
        if len(tasks) > 1:
            self._tell_of_several_backwards(where)
        return where, moments

    def _whole(self, task: int) -> int:
        """The backward pass that `task` is a part of."""
        while task in self._outer:
            task = self._outer[task]
        return task

    def _tell_of_several_backwards(self, where: NDArray[np.int64]) -> None:
        """The parts of a tensor's gradient that several backward passes bring cannot be added up as statistics."""
        gradients = where[where[:, 0] <= _BACKWARD, 1:]
        _, counts = np.unique(gradients, axis=0, return_counts=True)
        if (counts > 1).any() and not self._told_of_several:
            self._told_of_several = True
            message = (
                f"in step {self.step} several backward passes went through one forward pass; output_grad and input_grad"
                " are of the last, weight_grad is of all: add the losses and call backward once to see the sum"
            )
            self.events.append(Event(step=self.step, kind="several-backwards", message=message))

    def _add_derived(self, values: Rows) -> None:
        """Adds what does not follow from moments; of several executions of a module the mean is recorded.

        Of the largest logits it is the largest.
        """
        sites = [site for site, _, _ in self._derived]
        stats = [COLUMN[stat] for _, stat, _ in self._derived]
        numbers = _numbers([value for _, _, value in self._derived])
        for predicate, tensors in self._saturable.items():
            sites += [site for site, _ in tensors]
            stats += [COLUMN[Statistic.SATURATED_FRACTION]] * len(tensors)
            numbers += fractions_where([tensor for _, tensor in tensors], predicate).tolist()
        for site, dead in self.liveness.end_step().items():
            sites.append(site)
            stats.append(COLUMN[Statistic.DEAD_FRACTION])
            numbers.append(dead)
        if not sites:
            return
        total, count = np.zeros_like(values, dtype=np.float64), np.zeros_like(values, dtype=np.int64)
        np.add.at(total, (sites, stats), numbers)
        np.add.at(count, (sites, stats), 1)
        for place in self._withheld:
            count[place] = 0
        largest = COLUMN[Statistic.MAX_LOGIT]
        logits = np.flatnonzero(np.array(stats) == largest)
        if len(logits):
            places = np.array(sites)[logits]
            total[places, largest] = np.nan
            np.fmax.at(total[:, largest], places, np.array(numbers)[logits])
            total[places, largest] *= count[places, largest]  # to be divided by it
        known = (count > 0) & ~np.isnan(values[:, [COLUMN[Statistic.NUMEL]]])  # a pass that was dropped derives nothing
        values[known] = total[known] / count[known]

    def _unscale(self, values: Rows, time_index: NDArray[np.int32], time_values: Rows, factor: float) -> None:
        """Gradients of a scaled loss, divided by the scale; the applied ones the scaler has unscaled itself."""
        gradients = self.table.are(GRADIENT_QUANTITIES - {Quantity.APPLIED_GRAD})
        values[gradients] = scaled(values[gradients], factor)
        in_time = gradients[time_index[:, 0]]
        time_values[in_time] = scaled(time_values[in_time], factor)


def _nothing() -> None:
    return None


def _among(numbers: NDArray[np.int64], wanted: set[int]) -> NDArray[np.bool_]:
    """Which `numbers` are `wanted`; most steps want one."""
    return numbers == next(iter(wanted)) if len(wanted) == 1 else np.isin(numbers, list(wanted))


def _last_of(places: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.intp]:
    """For each `wanted` (row, 2) the last row of `places` (row, 2) that equals it; -1 where there is none."""
    width = 1 + max(int(pairs[:, 1].max(initial=0)) for pairs in (places, wanted))
    known, keys = (pairs[:, 0] * width + pairs[:, 1] for pairs in (places, wanted))
    order = np.argsort(known, kind="stable")
    at = np.searchsorted(known[order], keys, side="right") - 1
    found = order[at] if len(order) else at  # where nothing is smaller it is -1, some row that differs
    return np.where(known[found] == keys, found, -1) if len(order) else found


def _numbers(values: Sequence[Tensor | float]) -> list[float]:
    """0-dim tensors as numbers, with one wait for each device."""
    numbers = [0.0 if isinstance(value, Tensor) else value for value in values]
    tensors = {i: value for i, value in enumerate(values) if isinstance(value, Tensor)}
    for device in {value.device for value in tensors.values()}:
        here = [i for i, value in tensors.items() if value.device == device]
        for i, number in zip(here, torch.stack([tensors[i].double() for i in here]).tolist(), strict=True):
            numbers[i] = number
    return numbers


def _by_site(
    where: NDArray[np.int64], rows: Rows, sites: int, placed: NDArray[np.intp]
) -> tuple[Rows, NDArray[np.int32], Rows]:
    """One row for each site over all its times, and the times of those that have several.

    Of the sites in `placed` a single row keeps its time too, unless that is 0.
    """
    values = np.full((sites, len(STATISTICS)), np.nan, dtype=np.float32)
    site, time = where[:, 1], where[:, 2]
    order = np.lexsort((np.arange(len(where)), time, site))
    site, time = site[order], time[order]
    last = np.ones(len(order), dtype=bool)  # of several rows of one site and time the last counts
    last[:-1] = (site[1:] != site[:-1]) | (time[1:] != time[:-1])
    order, site, time = order[last], site[last], time[last]
    many = (np.bincount(site, minlength=sites)[site] > 1) | ((time > 0) & np.isin(site, placed))
    values[site[~many]] = rows[order[~many]]
    if many.any():
        members, starts = np.unique(site[many], return_index=True)
        values[members] = combine(rows[order[many]], starts.tolist())
    index = np.stack([site[many], time[many]], axis=1).astype(np.int32)
    return values, index, rows[order[many]]
