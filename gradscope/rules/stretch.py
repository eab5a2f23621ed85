"""A stretch of layers along which something steadily grows or shrinks, in the words of a finding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from gradscope.budget import Budget, budget_of
from gradscope.errors import NotJudged
from gradscope.kinds import Kind
from gradscope.records import Quantity, Site, Statistic
from gradscope.rules.activations import asked_gain
from gradscope.rules.gain import GROWTH, LEAST_LAYERS, STEADY, Bools, Rises
from gradscope.rules.layers import (
    LOOKUPS,
    Layer,
    Place,
    Profile,
    fan_in,
    has_made_weight,
    learned_layers,
    relative_scale,
)
from gradscope.rules.persistence import Persistence, persistence
from gradscope.rules.wording import number, steps
from gradscope.trace import Doubles, Ints, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What lasts, and where.

    Attributes:
        layers: From the input's side to the output's; some may be joins of branches.
        driving: Those with a weight, without the first place; with joins also those in the branches between.
        sites: Of the profile, one for each layer.
        rows: Indices of the steps that show it.
        first_step: Number of the first of them.
        last_step: Number of the last.
        decades: End to end, median over these steps; positive.
        per_layer: Median change from layer to layer, in decades; positive.
        changes: What each place adds to the decades, in the first of these steps; NaN of the first place.
        scale: Median of the `relative_scale` of the driving layers in the first of these steps; NaN where a
            parametrization sets it.
    """

    layers: tuple[Place, ...]
    driving: tuple[Layer, ...]
    sites: tuple[Site, ...]
    rows: Ints
    first_step: int
    last_step: int
    decades: float
    per_layer: float
    changes: tuple[float, ...]
    scale: float

    @property
    def where(self) -> str:
        """The module to look at: that of the first layer, or that which calls the first function."""
        return module_of(self.layers[0])

    @property
    def early(self) -> str:
        """Name of the layer nearest to the input."""
        return self.layers[0].module or "the model"

    @property
    def late(self) -> str:
        """Name of the layer nearest to the loss."""
        return self.layers[-1].module or "the model"

    @property
    def when(self) -> str:
        """The steps, as a phrase."""
        return f"in {steps(self.first_step, self.last_step)}"

    @property
    def weights(self) -> str:
        """How large the weights are for what follows them, as a clause."""
        if not self.driving:
            return "the weights between are parameters of no module"
        if np.isnan(self.scale):
            return "what makes the weights, a parametrization, sets their scale"
        return (
            f"the weights have {number(self.scale)} times the scale that keeps a signal's spread"
            f" (median of these layers at step {self.first_step})"
        )

    def weight_advice(self, trace: Trace, direction: str) -> str:
        """How to draw the weights, with the numbers of the first layer that is known."""
        layer = next((d for d in self.driving if d.module_type not in LOOKUPS), None)
        if layer is None:
            return f"Draw the weights {direction}"
        if np.isnan(self.scale):
            return f"Look at the parametrization of {layer.module}: the weights that it makes must be {direction}"
        now = float(trace.statistics[Statistic.RMS][self.rows[0], layer.weight])
        owned = trace.sites[layer.weight]
        name = layer.module if owned.module == layer.module else f"{owned.module}.{owned.name}".lstrip(".")
        asked = asked_gain(layer.activation) / np.sqrt(fan_in(trace, layer))
        return (
            f"Draw the weights {direction}: {name} has an rms of {number(now)}, a std of {number(asked)} keeps"
            f" the spread before {layer.activation or 'a linear layer'}"
        )


def module_of(place: Place) -> str:
    """Its name among `named_modules()`: a function, `block.relu#0`, is called by one."""
    name = place.module
    return name if "#" not in name else name.rpartition(".")[0]


def stretch_of(trace: Trace, profile: Profile, rises: Rises, lasting: Persistence) -> Stretch:
    """The stretch of the steps in `lasting`: where it lies in most of them."""
    rows = lasting.rows[rises.known[lasting.rows]]
    foot, top = (int(np.bincount(ends[rows]).argmax()) for ends in (rises.foot, rises.top))
    if top <= foot:  # the two are of different steps: take both from the first
        foot, top = int(rises.foot[rows[0]]), int(rises.top[rows[0]])
    layers = profile.layers[foot : top + 1]
    driving = _driving(trace, layers)
    made = any(has_made_weight(trace, layer) for layer in driving)
    scales = [float(relative_scale(trace, layer)[rows[0]]) for layer in driving]
    known = [scale for scale in scales if np.isfinite(scale)]
    levels = profile.values[rows[0], foot : top + 1]
    return Stretch(
        layers=layers,
        driving=driving,
        sites=tuple(trace.sites[c] for c in profile.columns[foot : top + 1]),
        rows=rows,
        first_step=int(trace.steps[lasting.first]),
        last_step=int(trace.steps[lasting.last]),
        decades=float(np.median(rises.decades[rows])),
        per_layer=float(np.median(rises.per_layer[rows])),
        changes=(float("nan"), *(np.diff(levels) * np.sign(levels[-1] - levels[0])).tolist()),
        scale=float(np.median(known)) if known and not made else float("nan"),
    )


def grows_from(trace: Trace, stretch: Stretch, *, least: float) -> int:
    """Index of the first place that makes more of what it is given: by its weights or by what it does; 0 if unknown.

    The place with which a rise begins is the last before it, unless its own weights are about as large as those that
    follow, and have at least `least` times the scale that keeps a signal.
    """
    for index, (place, change) in enumerate(zip(stretch.layers, stretch.changes, strict=True)):
        scale = float(relative_scale(trace, place)[stretch.rows[0]]) if isinstance(place, Layer) else np.nan
        if index == 0 and np.isnan(scale) and place.module_type not in LOOKUPS:
            return 0
        large = scale >= GROWTH or (index == 0 and scale >= max(least, stretch.scale / GROWTH))
        if large or change >= STEADY * np.nanmedian(stretch.changes):
            return index
    return 0


def from_there(stretch: Stretch, index: int) -> Stretch:
    """What of it lies at or behind its place of that `index`; with joins, in the branches before that place, too."""
    before = stretch.layers[index - 1].depth if index else -1
    return replace(stretch, driving=tuple(layer for layer in stretch.driving if layer.depth > before))


def named(stretch: Stretch, index: int) -> str:
    """The module to look at if it begins there: where branches join, the first layer in those that join."""
    place = stretch.layers[index]
    inside = from_there(stretch, index).driving
    return inside[0].module if inside and not isinstance(place, Layer) else module_of(place)


def way_back(trace: Trace, stretch: Stretch) -> Budget | None:
    """Where the gradient's decades along it go; None where that is not known."""
    budget = budget_of(trace)
    return budget.between(stretch.layers[-1].module, stretch.layers[0].module) if budget is not None else None


def decades_in_words(budget: Budget | None) -> str:
    """As a sentence; "" where they are not known."""
    return f" Its decades on the way back: {budget.in_words}." if budget is not None and budget.in_words else ""


def other_remedy(budget: Budget | None) -> str | None:
    """What to change where neither weights nor activations make up most of the decades; None where they do."""
    if budget is None or not budget.groups:
        return None
    group = max(budget.groups, key=lambda each: each.decades * budget.decades)
    if group.kind in (Kind.SKIP, Kind.BRANCHES):
        return (
            f"Where the paths join, a gradient passes back {number(group.each)} times itself: put a normalisation layer"
            " at the start of each branch, and let the shortcut pass on what it is given, with a factor of 1."
        )
    if group.kind is not Kind.OTHER:
        return None
    what = group.module_type if len(group.modules) > 1 else f"{group.module_type} {group.modules[0]}"
    return f"Look at what each {what} does to the gradient: it passes back {number(group.each)} of it; 1 keeps it."


def _driving(trace: Trace, places: tuple[Place, ...]) -> tuple[Layer, ...]:
    layers = [place for place in places[1:] if isinstance(place, Layer)]
    if layers and not any(place.closes for place in places[1:]):
        return tuple(layers)
    shallow, deep = places[0].depth, places[-1].depth
    return tuple(layer for layer in learned_layers(trace) if shallow < layer.depth <= deep)


def joins_along(profile: Profile, rises: Rises) -> Bools:
    """Whether branches join on each step's rise, so that its weights are not what drives it. Shape (step,)."""
    at = np.arange(len(profile.layers))
    joins = np.array([place.closes for place in profile.layers], dtype=bool)
    return np.asarray(((rises.foot[:, None] < at) & (at <= rises.top[:, None]) & joins).any(axis=1))


def scale_along(trace: Trace, profile: Profile, rises: Rises) -> Doubles:
    """Median of `relative_scale` over the layers of each step's rise, the first of them excluded. Shape (step,)."""
    none = np.full(len(trace.steps), np.nan)
    known = [relative_scale(trace, place) if isinstance(place, Layer) else none for place in profile.layers]
    scales = np.stack(known, axis=1)
    at = np.arange(scales.shape[1])
    along = (rises.foot[:, None] < at) & (at <= rises.top[:, None]) & rises.known[:, None] & np.isfinite(scales)
    ordered = np.sort(np.where(along, scales, np.inf), axis=1)
    count, each = along.sum(axis=1), np.arange(len(scales))
    middle = (ordered[each, np.maximum(count - 1, 0) // 2] + ordered[each, count // 2]) / 2
    return np.where(count > 0, middle, np.nan)


Judged: TypeAlias = Sequence[tuple[Profile, Rises]]
Lasting: TypeAlias = tuple[Stretch, Persistence]


def enough_layers(trace: Trace, judged: Judged, quantity: Quantity) -> None:
    """Raises `NotJudged` where too few layers were observed; many that are all parallel are enough to see no slope."""
    what = "gradient" if quantity is Quantity.OUTPUT_GRAD else "output"
    seen = {trace.sites[c].module for c in trace.columns(quantity)}
    count = max([*(len(p.layers) for p, _ in judged), sum(d.module in seen for d in learned_layers(trace))])
    if count < LEAST_LAYERS:
        raise NotJudged(f"needs the {what} of {LEAST_LAYERS} layers with a weight, the trace has {count}")
    if judged and not any(rises.known.any() for _, rises in judged):
        what = "an output" if quantity is Quantity.OUTPUT else "a gradient"
        usable = "constant" if quantity is Quantity.OUTPUT else "zero"
        raise NotJudged(f"in no step did {LEAST_LAYERS} layers have {what} that is finite and not {usable}")


def steepest(trace: Trace, judged: Judged, sick: Sequence[Bools]) -> Iterator[Lasting]:
    """Of the chains along which the fault lasts the one with most decades; none where it lasts along none."""
    found = []
    for (profile, rises), rows in zip(judged, sick, strict=True):
        lasting = persistence(rows, rises.known)
        if lasting is not None:
            found.append((stretch_of(trace, profile, rises, lasting), lasting))
    if found:
        yield max(found, key=lambda pair: pair[0].decades)
