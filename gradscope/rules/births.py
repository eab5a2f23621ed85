"""Where the first NaN or infinity of a run comes from: what GS401 and GS403 are about."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.ranks import rank_of
from gradscope.records import Quantity, Statistic
from gradscope.rules.wording import count
from gradscope.trace import Trace

Hits = Mapping[Quantity, list[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Birth:
    """What came first.

    Attributes:
        module: The module that made it, for a call of a function the one whose code makes it; "" where it came from
            outside.
        column: The site that shows it.
        how: What happened there, as a sentence about `module`.
        remedy: What to do about it.
        rows: Indices of the steps in which something that matters is not finite; it was born in the first.
        only_gradients: No weight and no output has ever been broken.
        heals: The last recorded step is sound.
        reached: How many modules it has reached in its first step.
    """

    module: str
    column: int
    how: str
    remedy: str
    rows: NDArray[np.int64]
    only_gradients: bool
    heals: bool
    reached: int

    @property
    def row(self) -> int:
        """Index of the step in which it was born."""
        return int(self.rows[0])

    def extent(self, steps: int) -> str:
        """How far it went, in its first step and over all `steps`."""
        affected = f"{len(self.rows)} of {count(steps, 'step')} {'is' if len(self.rows) == 1 else 'are'} affected"
        if not self.reached:
            return affected
        return f"{count(self.reached, 'module')} {'is' if self.reached == 1 else 'are'} reached in it, {affected}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    module: str
    column: int
    how: str
    remedy: str


def birth_of(trace: Trace) -> Birth | None:
    """The first one that matters; None if there is none, or only gradients that a scaler has skipped."""
    bad = np.nan_to_num(trace.statistics[Statistic.NONFINITE_COUNT]) > 0
    kind = np.array([site.quantity.value for site in trace.sites])
    harmful = bad & ~np.isin(kind, [Quantity.OUTPUT, Quantity.INPUT])[None, :]
    # an infinite slope that a rectifier multiplies by zero, as of its root, harms nothing: the parameters tell
    told = (trace.statistics[Statistic.NUMEL][:, trace.columns(Quantity.WEIGHT_GRAD)] > 0).any(axis=1)
    passing = np.isin(kind, [Quantity.INPUT_GRAD, Quantity.OUTPUT_GRAD, Quantity.STATE_GRAD])
    harmful[np.ix_(told, passing)] = False
    outputs = trace.columns(Quantity.OUTPUT)
    if outputs:  # what leaves the model last is what the loss sees
        harmful[:, outputs[-1]] |= bad[:, outputs[-1]]
    rows = np.flatnonzero(harmful.any(axis=1))
    if not len(rows):
        return None
    step = int(rows[0])
    new = bad[step] & ~bad[step - 1] if step else bad[step]  # what was so before was meant, as a mask is
    scaled = np.nan_to_num(trace.per_step["loss_scale"], nan=1.0)[step] != 1
    only_gradients = not (bad[rows] & ~np.char.endswith(kind, "grad")[None, :] & (kind != "total_norm")).any()
    heals = bool(rows[-1] < len(trace.steps) - 1)
    if scaled and only_gradients and heals:
        return None
    place = _place(trace, new, row=step)
    return Birth(
        module=_owner(trace, place.module),
        column=place.column,
        how=place.how,
        remedy=place.remedy,
        rows=rows,
        only_gradients=only_gradients,
        heals=heals,
        reached=len({trace.sites[c].module for c in np.flatnonzero(bad[step]) if trace.sites[c].module}),
    )


def _owner(trace: Trace, module: str) -> str:
    """The module whose code makes the call, where `module` is a call: "attn" of "attn.softmax#0"."""
    owner, _, called = module.rpartition(".")
    return owner if "#" in called and trace.columns(Quantity.OUTPUT, module) else module


def _in_container(trace: Trace, born: _Place, row: int) -> _Place | None:
    """The place within the module that has returned it before a layer, or the loss, took it in; None if none did."""
    site = trace.sites[born.column]
    known = trace.meta.get("broken")
    if not isinstance(known, Mapping) or site.quantity not in (Quantity.OUTPUT, Quantity.LOSS):
        return None
    ran = [trace.sites[c] for c in trace.columns(Quantity.OUTPUT)]
    for container, step in known.items():
        inside = [s.depth for s in ran if s.module.startswith(container + ".")]
        over = site.quantity is Quantity.LOSS or max(inside, default=-1) < site.depth
        if step == trace.steps[row] and inside and over:
            return _Place(
                module=container,
                column=born.column,
                how=f"{container} makes it behind the last of its modules, and {site.module or 'the loss'} takes it in",
                remedy=f"Look at what {container} computes behind its last module: clamp, or add an ε inside of a log,"
                " root or division.",
            )
    return None


def before(trace: Trace, column: int) -> str:
    """What ran before a module: functions in between are no sites, nor is what a module is given."""
    outputs = trace.columns(Quantity.OUTPUT)
    earlier = [c for c in outputs[: outputs.index(column)] if trace.sites[c].module != trace.sites[column].module]
    return trace.sites[earlier[-1]].module if earlier else "the input"


def _place(trace: Trace, bad: NDArray[np.bool_], *, row: int) -> _Place:
    """What came first in the step of index `row`, given which sites have become non-finite in it."""
    hits = {quantity: [c for c in trace.columns(quantity) if bad[c]] for quantity in Quantity}
    forward = _forward(trace, hits, begun=row > 0)
    born = (
        (forward and _in_container(trace, forward, row)) or forward or _foreign(trace, hits) or _backward(trace, hits)
    )
    if born is None:
        column = int(np.flatnonzero(bad)[0])
        site = trace.sites[column]
        born = _Place(
            module=site.module,
            column=column,
            how=f"{site} is not finite",
            remedy=f"Look at {site.module or 'the model'}.",
        )
    return born


def _forward(trace: Trace, hits: Hits, *, begun: bool) -> _Place | None:
    if found := [c for c in hits[Quantity.INPUT] if not trace.sites[c].module]:  # others are made inside of the model
        how, remedy = "The data given to the model is not finite", "Check the data loader."
    elif found := hits[Quantity.WEIGHT]:
        site = trace.sites[found[0]]
        how = f"The parameter {site.module}.{site.name} is not finite when the step begins"
        remedy = (
            "It was broken by an update before this step: record every step, and lower the learning rate."
            if begun
            else f"It was so before the first step: look at how {site.module or 'the model'} is initialised, or at the"
            " checkpoint that was loaded."
        )
    elif found := hits[Quantity.OUTPUT]:
        site = trace.sites[found[0]]
        how = f"The output of {site.module or 'the model'} ({site.module_type}) is the first that is not finite"
        remedy = (
            f"Look at {site.module or 'the model'}, and at what is computed between {before(trace, found[0])} and it:"
            " clamp, or add an ε inside of a log, root or division."
        )
    elif found := hits[Quantity.LOSS]:
        how, remedy = "The loss makes it from finite outputs", "Clamp inside the loss, or use the form with logits."
    else:
        return None
    return _Place(module=trace.sites[found[0]].module, column=found[0], how=how, remedy=remedy)


def _foreign(trace: Trace, hits: Hits) -> _Place | None:
    """What came with the sum of the gradients over the ranks, where nothing that this rank has computed is broken."""
    place, found = rank_of(trace), hits[Quantity.WEIGHT_GRAD]
    if place is None or not found or hits[Quantity.INPUT_GRAD] or hits[Quantity.OUTPUT_GRAD]:
        return None
    site = trace.sites[found[-1]]
    return _Place(
        module="",
        column=found[-1],
        how=(
            f"Rank {place[0]} computes finite gradients, but the sum over all ranks is not finite for"
            f" {f'{site.module}.{site.name}'.lstrip('.')}"
        ),
        remedy="Merge the files of all ranks with `gradscope merge`: the report names the rank and the module.",
    )


def _backward(trace: Trace, hits: Hits) -> _Place | None:
    returned = {trace.sites[c].module for c in hits[Quantity.OUTPUT_GRAD]}
    makers = [c for c in hits[Quantity.INPUT_GRAD] if trace.sites[c].module not in returned]
    names = [trace.sites[c].module for c in makers]
    # a container that is observed as well only repeats what a module inside of it did
    makers = [c for c, name in zip(makers, names, strict=True) if not any(n.startswith(name + ".") for n in names)]
    steps = {
        Quantity.INPUT_GRAD: (
            makers,
            "The backward pass of {module} makes it from a finite gradient",
            "Keep the input of {module} away from where its derivative is infinite: clamp it, or add an ε inside of its"
            " root, norm or inverse function.",
        ),
        Quantity.OUTPUT_GRAD: (
            hits[Quantity.OUTPUT_GRAD],
            "The gradient that comes back to {module} from what follows it is not finite",
            "Look at the functions between {module} and the loss: a root, norm, log or division at zero.",
        ),
        Quantity.WEIGHT_GRAD: (
            hits[Quantity.WEIGHT_GRAD],
            "The gradient of {module}.{name} is not finite",
            "Lower the learning rate or clip the gradient.",
        ),
        Quantity.APPLIED_GRAD: (
            hits[Quantity.APPLIED_GRAD],
            "The gradient of {module}.{name} breaks before the optimizer",
            "Check what runs between backward and the optimizer's step: clipping, unscaling.",
        ),
        Quantity.WEIGHT_UPDATE: (
            hits[Quantity.WEIGHT_UPDATE],
            "The update of {module}.{name} overflows",
            "Lower the learning rate.",
        ),
    }
    for found, how, remedy in steps.values():
        if found:
            site = trace.sites[found[-1]]
            words = {"module": site.module or "the model", "name": site.name}
            return _Place(module=site.module, column=found[-1], how=how.format(**words), remedy=remedy.format(**words))
    return None
