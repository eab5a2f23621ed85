"""`attach(model)`: probes → statistics → trace. The only place where hooks and storage meet.

    scope = gradscope.attach(model, optimizer=optimizer)
    for inputs, targets in data:
        loss = criterion(model(inputs), targets)     # hooks: outputs
        loss.backward()                              # hooks: gradients
        optimizer.step()                             # hooks: applied gradients, updates; the step's boundary
        optimizer.zero_grad()
    diagnosis = scope.diagnose()

A step is closed when the next one begins, so a loss recorded after `optimizer.step()` still belongs to it, and two
optimizers that step one after the other make one step.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from gradscope import at_exit, plugins, processes
from gradscope.blind_spots import blind_spots
from gradscope.compiled import Eagerly
from gradscope.errors import UsageError
from gradscope.fast_path import FastPath
from gradscope.findings import Diagnosis, Json
from gradscope.probes.base import Probe, Target, aside, rarely
from gradscope.probes.names import bare_modules, class_name, unwrapped
from gradscope.recorder import RECORDER, StepRecorder
from gradscope.records import Event, Quantity
from gradscope.rules.base import Rule
from gradscope.rules.engine import diagnose, given_rules
from gradscope.schedule import Every, Schedule, as_schedule
from gradscope.sharding import note_sharding
from gradscope.sources import with_calls
from gradscope.steps import GradScaler, Steps
from gradscope.target import about, about_optimizer, bare_optimizer, require_own, require_scaler, sizes, target_of
from gradscope.trace import Follower, Sink, Trace, TraceBuilder

_log = logging.getLogger("gradscope")

_NO_AXES: Mapping[str, int] = MappingProxyType({})
_attached: "WeakValueDictionary[int, nn.Module]" = WeakValueDictionary()  # by identity


def attach(
    model: nn.Module,
    *,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    scaler: GradScaler | None = None,
    trace: str | Path | None = None,
    probes: Iterable[Probe] | None = None,
    rules: Iterable[Rule] | None = None,
    modules: Iterable[str] = (),
    time_axes: Mapping[str, int] = _NO_AXES,
    every: int | Schedule = 1,
    first_step: int = 0,
    meta: "dict[str, Json] | None" = None,
) -> "Scope":
    """Watches `model` from now on, without changing a bit of its training.

    Args:
        model: Leaves, and the modules that `modules` names, are observed.
        optimizer: Ends the steps by itself; a list where several move the model. Without one a step ends with
            `Scope.step()`, or else when a forward follows a backward.
        scaler: An AMP scaler; gradients are recorded unscaled.
        trace: A file to stream to, readable while the training runs; by default the recording stays in memory. Of
            several processes rank r writes run.rank<r>.h5 for "run.h5", and `gradscope merge` makes one trace of them.
        probes: Instead of all installed ones.
        rules: Instead of all installed ones, for `Scope.diagnose`.
        modules: Names of containers whose output is wanted too; `encoder.*` matches by wildcard.
        time_axes: The axis of the sequence in what modules take and return, by names as in `modules`:
            `{"encoder.layers.*": 1, "conv*": -1}`. Their inputs, outputs and the gradients of both have a row for each
            position (`Trace.by_time`); a tensor without that axis is recorded whole. Of several patterns that match
            the last one counts. Recurrent layers need none.
        every: Record every n-th step, or those that a schedule picks (`gradscope.schedule`).
        first_step: Number of the first step, where a training is resumed.
        meta: Added to the trace's own, e.g. the seed.

    Raises:
        UsageError: The model has no parameters, is already attached, the optimizer moves none of its parameters, or a
            name in `modules` or `time_axes` matches nothing.
        TraceError: `trace` cannot be written.
    """
    optimizers = (optimizer,) if isinstance(optimizer, torch.optim.Optimizer) else tuple(optimizer or ())
    optimizers = tuple(bare_optimizer(one) for one in optimizers)
    target = target_of(model, tuple(modules), time_axes)
    if id(unwrapped(model)) in _attached:
        raise UsageError(
            f"`attach({type(model).__name__})`: this model is already attached; call `detach()` on its scope first."
        )
    for one in optimizers:
        require_own(one, target)
    chosen = _probes(probes)
    judges = None if rules is None else given_rules(rules)
    require_scaler(scaler)
    schedule = as_schedule(every)
    known: dict[str, Json] = {**about(target), "every": schedule.n if isinstance(schedule, Every) else "custom"}
    here = processes.place()
    if here is not None:
        known["distributed"] = {**here._asdict(), "parameters": "replicated"}
        trace = trace and processes.file_of(trace, here.rank)
    sink = TraceBuilder() if trace is None else _writer(Path(trace))
    return Scope(target, optimizers, chosen, judges, schedule, sink, scaler, first_step, {**known, **(meta or {})})


class Scope:
    """A running recording; made by `attach`. Also a context manager that detaches at its end."""

    def __init__(
        self,
        target: Target,
        optimizers: Sequence[torch.optim.Optimizer],
        probes: Sequence[Probe],
        rules: Iterable[Rule] | None,
        schedule: Schedule,
        sink: Sink,
        scaler: GradScaler | None,
        first_step: int,
        meta: "dict[str, Json]",
    ) -> None:
        self._target = target
        self._rules = None if rules is None else tuple(rules)
        self._schedule = schedule
        self._sink = sink
        sink.last_call = self._close_complete  # the process ends, or the sink is closed
        self._meta = meta
        self._begun = False
        self._late: list[Event] = []
        self._followers: list[Follower] = []
        types = {name: class_name(module) for name, module in bare_modules(target.model).items()}
        self._detached = False
        self._kept = (False, False, 0, False, False)  # of the recorder, during a pause; see `_pause`
        self._recorder = StepRecorder(types, self.begins)
        self._recorder.step = first_step
        self._recorder.one_of_several = "distributed" in meta
        self._records = 0
        note_sharding(target, self._recorder, meta)
        self._watched: frozenset[Quantity] = frozenset().union(*(probe.quantities for probe in probes))
        self._probes: dict[str, ExitStack] = {}
        self._steps = Steps(target, self._recorder, self, scaler)
        self._eagerly = Eagerly()
        self._fast_path = FastPath(target, self._recorder)
        self._place_hooks(probes, optimizers)
        _attached[id(unwrapped(target.model))] = unwrapped(target.model)
        self._ready(first_step)

    def _place_hooks(self, probes: Iterable[Probe], optimizers: Iterable[torch.optim.Optimizer]) -> None:
        target, recorder = self._target, self._recorder
        try:
            for probe in probes:
                self._probes[probe.name] = probe.attach(target, recorder)
            if not any(Quantity.WEIGHT_GRAD in probe.quantities for probe in probes):
                self._steps.watch_gradients(target)
            for optimizer in optimizers:
                self._steps.watch(optimizer)
        except BaseException:
            self._fast_path.close()
            for stack in self._probes.values():
                stack.close()
            self._steps.close()
            self._sink.close()  # else its file could not be given to the next `attach`
            raise

    # ---------------------------------------------------------------- for the user

    def step(self, loss: Tensor | float | None = None) -> None:
        """Ends a step, in a loop without an attached optimizer; `loss` is recorded with it."""
        if loss is not None:
            self.record_loss(loss)
        self._recorder.explicit = True
        self._close()
        self._ready(self._recorder.step)

    def watch(self, optimizer: torch.optim.Optimizer | None = None, scaler: GradScaler | None = None) -> None:
        """Takes in an optimizer, or an AMP scaler, that was made after `attach`.

        One that moves what an attached optimizer moved is taken in without being asked.

        Raises:
            UsageError: The optimizer moves nothing of the model, the scaler is none, or the scope is detached.
        """
        if self._detached:
            raise UsageError("`watch`: this scope is detached; attach to the model anew.")
        require_scaler(scaler)
        if scaler is not None:
            self._steps.use(scaler)
        if optimizer is not None:
            optimizer = bare_optimizer(optimizer)
            require_own(optimizer, self._target)
            if not any(optimizer is known for known in self._steps.optimizers):
                self._steps.watch(optimizer)

    def blind(self, module: str, why: str) -> None:
        """Notes in the trace that something of `module` cannot be seen, and why."""
        self._recorder.blind(module, why)

    def record_loss(self, loss: Tensor | float) -> None:
        """The loss of the running step, or of the one that has just ended; optional. Several are averaged."""
        if self._recorder.on:
            self._recorder.add_loss(loss)

    @property
    def complete_steps(self) -> int:
        """How many steps are recorded, with the running one if all optimizers have stepped in it."""
        return self._records + (self._recorder.on and self._recorder.boundary and self._steps.complete)

    @property
    def trace(self) -> Trace:
        """What was recorded so far, finished: a step that is still running is not in it."""
        self._close_complete()
        if not self._detached:
            self._describe()
        return self._sink.finish(self._recorder.sites, self._meta, [*self._late, *self._recorder.events])

    def diagnose(self) -> Diagnosis:
        """What the rules find in `trace`; at any time, also after `detach`."""
        return diagnose(self.trace, self._rules)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing that runs inside is recorded. An evaluation needs it only if it computes gradients."""
        if self._steps.paused:  # within another pause
            yield
            return
        self._pause()
        try:
            yield
        finally:
            self._resume()

    def follow(self, follower: Follower) -> None:
        """`follower` is told of every recorded step from now on, and of the end. If it raises it is told no more."""
        self._followers.append(follower)

    def detach(self) -> None:
        """Removes every hook. What was recorded stays; a step whose backward has run is kept. Twice is once."""
        self._detach(keep_partial=self._recorder.backward_ran)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not self._detached:
            step = self._recorder.step
            what = next(iter(str(error).splitlines()), "")  # torch quotes whole tensors below that
            message = f"the training stopped in step {step}: {type(error).__name__}{f': {what}' if what else ''}"
            self._recorder.events.append(Event(step=step, kind="interrupted", message=message))
        self._detach(keep_partial=error is not None or self._recorder.backward_ran)

    def _repr_html_(self) -> str:
        from gradscope.reports.notebook import scope_html  # a training loop has no use for it

        trace = self.trace
        return scope_html(trace, diagnose(trace, self._rules), running=not self._detached)

    # ---------------------------------------------------------------- steps: see `steps.Edges`

    def begins(self) -> None:
        """A step begins: ends the one before, if there is one."""
        try:
            aside(self._turn)
            self._eagerly.hold(self._recorder.on)  # it has to see whether compiled code is running
        except Exception as error:
            self.failed(error)
            self._recorder.on = False

    def _turn(self) -> None:
        recorder = self._recorder
        if self._begun:
            self._close()
        self._fast_path.come_back()
        self._drop_failed()
        recorder.boundary = False
        self._begun = True
        recorder.on = self._wants(recorder.step)
        if recorder.on and not self._records:
            note_sharding(self._target, self._recorder, self._meta)
        self._steps.begin()
        if recorder.on:
            recorder.begin_step()

    def ended(self) -> None:
        """A boundary has been reached: readies the next step."""
        self._ready(self._recorder.step + 1)

    def skipped(self) -> None:
        """The scaler has skipped the running step."""
        self._close(skipped=True)
        self.begins()

    def watched(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """These end the steps from now on."""
        self._meta["optimizers"] = [about_optimizer(one, self._target.model) for one in optimizers]

    def stalled(self) -> None:
        """So many forward passes without an end of the step: what they left is dropped, recording waits for the end."""
        recorder = self._recorder
        who = "an attached optimizer has stepped" if self._steps.optimizers else "`Scope.step` was called"
        message = (
            f"step {recorder.step} is not recorded: {recorder.forward} forward passes ran before {who}; if the"
            " optimizer was replaced, call `Scope.watch` with the new one"
        )
        recorder.events.append(Event(step=recorder.step, kind="not-observed", message=message))
        passes = recorder.forward
        recorder.drop_step()
        recorder.on, recorder.forward = False, passes  # counting on: a step is said to stall once

    def failed(self, error: Exception) -> None:
        """Something in gradscope failed that no probe is to blame for: recording ends, the training goes on."""
        self._recorder.failed(RECORDER, error)
        self._schedule = _never

    def _describe(self) -> None:
        """Writes down what is known of the training only by now."""
        if self._eagerly.refused:
            self._recorder.blind("", "runs inside of compiled code, so only its parameters are seen")
        if self._records:
            self._meta["sources"] = {**with_calls(self._meta.get("sources"), self._recorder.table.calls)}
            if self._recorder.table.links:
                self._meta["flow"] = self._recorder.table.links.to_list()
            if self._recorder.table.broken:
                self._meta["broken"] = {**self._recorder.table.broken}
            self._meta["dtypes"] = {**self._recorder.table.dtypes}
            self._meta["cuts"] = [cut.to_dict() for cut in self._recorder.table.cuts]
            self._meta |= sizes(self._target)
            self._meta["blind_spots"] = blind_spots(self._target, self._recorder, self._watched)

    def _ready(self, step: int) -> None:
        """Readies compiled code for `step`; its first forward would be too late."""
        self._eagerly.hold(self._wants(step))

    def _wants(self, step: int) -> bool:
        return not self._detached and bool(self._schedule(step))

    def _close(self, *, skipped: bool = False) -> None:
        """Ends the running step and hands it to the sink, and then to those who follow."""
        self._fast_path.come_back()  # before a probe takes some of its hooks away for good
        recorder = self._recorder
        record = None
        if skipped and recorder.on:
            message = (
                f"skipped by the gradient scaler: at a loss scale of {self._steps.scale:g} its gradients overflowed;"
                " they are not recorded"
            )
            recorder.tell("step-skipped", "", message)
        with at_exit.undisturbed():
            recorder.boundary = True
            self._begun = False
            if recorder.on:
                recorder.on = False
                try:
                    record = recorder.end_step(lr=self._steps.lr, loss_scale=self._steps.scale, skipped=skipped)
                    self._records += 1
                    if rarely(self._records - 1):  # should this be all that is ever written
                        self._describe()
                    self._sink.append(record, recorder.sites, self._meta)
                except Exception as error:
                    self.failed(error)
            recorder.backward_ran = False
            recorder.step += 1
        if record is not None and self._followers:  # outside of the lock: they may well talk to a server
            self._tell(lambda follower: follower.recorded(record, recorder.sites))

    def _tell(self, what: Callable[[Follower], None]) -> None:
        for follower in list(self._followers):
            try:
                what(follower)
            except Exception as error:
                self._followers.remove(follower)
                _log.warning("gradscope: %s is told no more: %s: %s", follower, type(error).__name__, error)

    def _close_complete(self) -> None:
        """Closes a step that lacks nothing but the next one's beginning; during a pause it is the one before that."""
        paused = self._steps.paused
        self._resume()
        if self._recorder.boundary and self._begun:
            self._close()
        if paused:
            self._pause()

    def _pause(self) -> None:
        recorder = self._recorder
        self._kept = recorder.on, recorder.boundary, recorder.forward, recorder.backward_ran, recorder.passed
        recorder.on = recorder.boundary = recorder.backward_ran = recorder.passed = False
        recorder.forward = 0
        self._steps.paused = True

    def _resume(self) -> None:
        if self._steps.paused:
            recorder = self._recorder
            self._steps.paused = False
            recorder.on, recorder.boundary, recorder.forward, recorder.backward_ran, recorder.passed = self._kept

    def _drop_failed(self) -> None:
        """Removes the hooks of failed probes, here where no hook of torch's is being iterated over."""
        for name in self._recorder.failed_probes & self._probes.keys():
            self._probes.pop(name).close()

    def _detach(self, *, keep_partial: bool) -> None:
        if self._detached:
            return
        self._resume()
        self._detached = True
        self._eagerly.hold(False)
        self._fast_path.close()
        for stack in self._probes.values():
            stack.close()
        skipped = self._steps.was_skipped()
        self._steps.close()
        _attached.pop(id(unwrapped(self._target.model)), None)
        recorder = self._recorder
        try:
            if self._begun and (recorder.boundary or (keep_partial and recorder.holds_something)):
                self._close(skipped=skipped)
        except Exception as error:
            self.failed(error)
        recorder.on = recorder.boundary = self._begun = False
        recorder.drop_step()
        self._late, recorder.events = [*self._late, *recorder.events], []
        try:
            self._describe()
            self._sink.note(recorder.sites, self._meta, self._late)
            self._sink.close()
        except Exception as error:  # a full disk must not end a training that is otherwise done
            self.failed(error)
        del self._target  # what was recorded is kept, the model is not
        recorder.release()
        self._tell(lambda follower: follower.ended())


def _probes(given: Iterable[Probe] | None) -> tuple[Probe, ...]:
    """What the user gave for `probes`, or one of each that is installed."""
    found = [offered() for offered in plugins.load("probes")] if given is None else list(given)  # type: ignore[operator]
    strange = next((probe for probe in found if not isinstance(probe, Probe)), None)
    if strange is not None:
        raise UsageError(
            f"`probes=`: {strange!r} is no {Probe.__name__}; give instances, such as `{Probe.__name__}()`."
        )
    return tuple(found)


def _never(step: int) -> bool:
    return False


def _writer(path: Path) -> Sink:
    from gradscope.storage import TraceWriter  # h5py is loaded by those who write a file

    return TraceWriter(path)
