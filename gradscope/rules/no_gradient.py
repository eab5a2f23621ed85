"""GS103: trainable parameters that no gradient ever reaches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.cut import Cut, cuts, narrowest
from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.flow import flow_of
from gradscope.records import Quantity, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.gain import Bools
from gradscope.rules.learning import Parameter, has_optimizer, norms, trainable_parameters
from gradscope.rules.regions import Region, regions
from gradscope.rules.wording import count
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True)
class NoGradient(Rule):
    """Parameters that require a gradient get none, or exactly zero, in every recorded step.

    What it means: this part of the model cannot learn; its path to the loss is cut or multiplied by zero.
    How it is measured: for each module, whether any gradient of its parameters was ever observed and ever differed
        from zero; or whether one was, but none any more, though the module runs. Neighbouring modules make one finding.
    Why the threshold: never and exactly zero need no threshold; three recorded steps tell a first step of zeros, as of
        a zero-initialised adapter, from a path that is cut. A gradient has stopped when it has been missing for the
        last 15 % of the run, ten steps at least, and three times as long as ever before: the heads of tasks that take
        turns come back sooner.
    What to try: look for detach(), .data, torch.no_grad(), argmax, or an output that nobody uses between this module
        and the loss; freeze what is not meant to learn with requires_grad_(False).
    How grave it is: an error where the path is cut, or the first layers get nothing. A module whose output nobody uses,
        as a pooler's, costs only itself; one that never ran may belong to another task. What no optimizer holds, or
        what ran on no sample, is only worth knowing; so is a gradient that stops where no line is seen to cut it. One
        that becomes exactly zero is an error where everything has to go through that module.
    Where it stays silent: frozen parameters, be it from some step on; a module that gets its gradient in some of the
        steps; a single parameter of a module whose others learn.
    Source: follows from the definition of backpropagation.
    """

    code = "GS103"
    name = "no-gradient"
    reads = frozenset({Quantity.WEIGHT_GRAD})

    min_steps: int = 3
    stopped_steps: int = 10
    stopped_share: float = 0.15
    stopped_gaps: float = 3.0  # times the longest pause before

    def check(self, trace: Trace) -> Iterator[Finding]:
        """One finding for each region that is cut off."""
        parameters = [p for p in trainable_parameters(trace) if not _is_empty(trace, p)]
        gradients = {p: _arrived(trace, p) for p in parameters}
        seen = np.any([~np.isnan(g) for g in gradients.values()], axis=0) if parameters else np.zeros(0, bool)
        if seen.sum() < self.min_steps:
            raise NotJudged(f"needs {self.min_steps} steps with a gradient, the trace has {int(seen.sum())}")
        by_module: dict[str, list[Parameter]] = {}
        for parameter in parameters:
            by_module.setdefault(parameter.module, []).append(parameter)
        # by place in the model, not by depth: modules that never ran have none
        owners = sorted(by_module, key=lambda m: min(p.grad for p in by_module[m]))
        cut = {m for m in owners if not any(np.nansum(np.abs(gradients[p])) > 0 for p in by_module[m])}
        for region in regions(cut, owners):
            yield self._finding(trace, region, [p for m in region.members for p in by_module[m]], owners, cut)
        some = np.any([np.nan_to_num(np.abs(g)) > 0 for g in gradients.values()], axis=0)
        still = frozen(trace)
        moving = [m for m in owners if m not in cut and still.isdisjoint(by_module[m])]
        since = {m: self._stopped(by_module[m], gradients, some) for m in moving}
        for start in sorted({row for row in since.values() if row is not None}):
            for region in regions({m for m, row in since.items() if row == start}, owners):
                members = [p for m in region.members for p in by_module[m]]
                zero = any(not np.isnan(gradients[p][start:]).all() for p in members)
                yield self._stopped_finding(trace, region, members, start, zero=zero, front=owners[0])

    def _stopped(self, parameters: list[Parameter], gradients: dict[Parameter, Doubles], seen: Bools) -> int | None:
        """Index of the first step in which a module gets no gradient any more, or one of zero; None if it gets one.

        Only steps count in which some gradient, `seen`, differs from zero: a loss may be through with its work.
        """
        here = np.any([np.nan_to_num(gradients[p]) > 0 for p in parameters], axis=0)[seen]
        had, rows = np.flatnonzero(here), np.flatnonzero(seen)
        missing = len(here) - 1 - int(had[-1])
        pause = int(np.diff(np.r_[-1, had]).max()) - 1
        least = max(self.stopped_steps, self.stopped_share * len(here), self.stopped_gaps * pause)
        return int(rows[had[-1] + 1]) if missing >= least else None

    def _stopped_finding(
        self, trace: Trace, region: Region, members: list[Parameter], start: int, *, zero: bool, front: str
    ) -> Finding:
        runs = any(_ran_in(trace, p.module, start) for p in members)
        by = narrowest(cuts(trace.meta), region.members) if runs and not zero else None
        flow = flow_of(trace)
        needed = front in region.members or (flow is not None and not {*flow.backbone}.isdisjoint(region.members))
        first = int(trace.steps[start])
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR if by is not None or (zero and needed) else Severity.INFO,
            module=region.module,
            sites=tuple(trace.sites[p.grad] for p in members),
            alike=region.members,
            first_step=first,
            last_step=int(trace.steps[-1]),
            measured=0.0,
            threshold=0.0,
            unit="‖∂L/∂w‖",
            message=(
                f"{count(len(members), 'parameter')} of {region} ({_size(trace, members)}) got a gradient until step"
                f" {trace.steps[start - 1]} and {'one of exactly zero' if zero else 'none'} in the"
                f" {len(trace.steps) - start} recorded steps from {first} on."
            ),
            cause=(
                "Something on its path to the loss multiplies the gradient by zero since then."
                if zero
                else "It no longer runs with gradients enabled."
                if not runs
                else "It still runs, but what leads to the loss no longer depends on it."
                if by is None
                else f"It still runs, but {by} takes what it computes out of the graph."
            ),
            remedy=_remedy(region, by, fed=True, never=not zero),
        )

    def _finding(
        self, trace: Trace, region: Region, members: list[Parameter], owners: list[str], cut: set[str]
    ) -> Finding:
        never = all(np.isnan(_arrived(trace, p)).all() for p in members)
        ran = any(p.depth >= 1 for p in members)
        held = not has_optimizer(trace) or any(p.update is not None for p in members)
        everything = len(cut) == len(owners)
        fed = not ran or any(_was_fed(trace, p.module) for p in members)
        by = narrowest(cuts(trace.meta), region.members) if never and ran else None
        front = owners[0] in region.members  # everything behind it is cut off from the loss as well
        severity = Severity.WARNING
        if not held or not fed:
            severity = Severity.INFO
        elif ran and (by is not None or front or not never or everything):
            severity = Severity.ERROR
        zeros = not never and fed and _are_zero(trace, members)
        kind = "never got a gradient" if never else "got a gradient of exactly zero"
        return Finding(
            code=self.code,
            pathology=self.name,
            severity=severity,
            module=region.module,
            sites=tuple(trace.sites[p.grad] for p in members),
            alike=region.members,
            first_step=int(trace.steps[0]),
            last_step=int(trace.steps[-1]),
            measured=0.0,
            threshold=0.0,
            unit="‖∂L/∂w‖",
            message=(
                f"{count(len(members), 'parameter')} of {region} ({_size(trace, members)}) {kind} in"
                f" {len(trace.steps)} recorded steps."
            ),
            cause=(
                "Its own weights are zero, so that each multiplies the other's gradient by zero."
                if zeros
                else _cause(by, never=never, ran=ran, everything=everything)
                if fed
                else "It ran, but never on a sample."
            ),
            remedy=(
                f"Draw the weight of {members[0].module} at random: of two factors only one may start at zero."
                if zeros
                else _remedy(region, by, fed=fed, never=never)
            ),
        )


def _is_empty(trace: Trace, parameter: Parameter) -> bool:
    """Whether it has no elements: nothing is known of it, or this rank has nothing of a parameter that is sharded."""
    if parameter.weight is None:
        return not parameter.size > 0
    return bool((trace.statistics[Statistic.NUMEL][:, parameter.weight] == 0).any())


def _are_zero(trace: Trace, members: list[Parameter]) -> bool:
    """Whether all weights, two at least, are zero in the first record."""
    weights = [p for p in members if p.is_weight]
    return len(weights) > 1 and all(norms(trace, p.weight)[0] == 0 for p in weights)


def _ran_in(trace: Trace, module: str, start: int) -> bool:
    """Whether `module` has returned something, with gradients enabled, from step index `start` on."""
    columns = trace.columns(Quantity.OUTPUT, module)
    return bool((trace.statistics[Statistic.NUMEL][start:, columns] > 0).any())


def _was_fed(trace: Trace, module: str) -> bool:
    """Whether `module` ever returned an element; an expert that no sample is routed to runs on empty batches."""
    columns = trace.columns(Quantity.OUTPUT, module)
    return not columns or bool((trace.statistics[Statistic.NUMEL][:, columns] > 0).any())


def _arrived(trace: Trace, parameter: Parameter) -> Doubles:
    """‖∂L/∂w‖₂ over the steps; infinite where some of it is not finite, NaN where none was observed."""
    broken = trace.statistics[Statistic.NONFINITE_COUNT][:, parameter.grad] > 0
    return np.where(broken, np.inf, norms(trace, parameter.grad))


def frozen(trace: Trace) -> frozenset[Parameter]:
    """Those that no longer require a gradient at the end of the recording, though they did when it began."""
    listed = trace.meta.get("frozen")
    names = set(map(str, listed)) if isinstance(listed, list) else set()
    return frozenset(p for p in trainable_parameters(trace) if f"{p.module}.{p.name}".lstrip(".") in names)


def _size(trace: Trace, members: list[Parameter]) -> str:
    size = sum(p.size for p in members)
    share = size / max(sum(p.size for p in trainable_parameters(trace)), 1.0)
    return f"{size:.0f} elements, {share:.0%} of all trainable"


def _remedy(region: Region, by: Cut | None, *, fed: bool, never: bool) -> str:
    if not fed:
        return f"Look at what chooses the samples of {region}."
    if by is not None:
        return f"Keep that value in the graph; if {region} is not meant to learn, freeze it with requires_grad_(False)."
    if never:
        return (
            f"Look between {region} and the loss for detach(), torch.no_grad(), .item() or an unused output; if it is"
            " not meant to learn, freeze it with requires_grad_(False)."
        )
    return f"Look at what follows {region}: units that are always off, a saturated function, a zero factor."


def _cause(by: Cut | None, *, never: bool, ran: bool, everything: bool) -> str:
    if by is not None:
        return f"It ran in the forward pass, but {by} takes what it computes out of the graph."
    if everything and not never:
        return (
            "Every gradient in the model is zero, so the loss hands back nothing or all paths are multiplied by zero."
        )
    if not never:
        return "The path to the loss exists, but something on it multiplies the gradient by zero."
    if ran:
        return "It ran in the forward pass, but nothing that leads to the loss depends on it."
    return "It was never seen to run with gradients enabled: it is unused, or runs under torch.no_grad()."
