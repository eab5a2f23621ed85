"""A stretch of layers along which something steadily grows or shrinks, in the words of a finding."""

from dataclasses import dataclass

import numpy as np

from gradscope.records import Site, Statistic
from gradscope.rules.activations import asked_gain
from gradscope.rules.gain import Rises
from gradscope.rules.layers import Layer, Profile, fan_in, has_made_weight, relative_scale
from gradscope.rules.persistence import Persistence
from gradscope.rules.wording import number
from gradscope.trace import Doubles, Ints, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """What lasts, and where.

    Attributes:
        layers: From the input's side to the output's.
        sites: Of the profile, one for each layer.
        rows: Indices of the steps that show it.
        first_step: Number of the first of them.
        last_step: Number of the last.
        decades: End to end, median over these steps; positive.
        per_layer: Median change from layer to layer, in decades; positive.
        scale: Median of the layers' `relative_scale` in the first of these steps, without the first layer's; NaN where
            a parametrization sets it.
    """

    layers: tuple[Layer, ...]
    sites: tuple[Site, ...]
    rows: Ints
    first_step: int
    last_step: int
    decades: float
    per_layer: float
    scale: float

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
        return f"in steps {self.first_step} to {self.last_step}"

    @property
    def weights(self) -> str:
        """How large the weights are for what follows them, as a clause."""
        if np.isnan(self.scale):
            return "what makes the weights, a parametrization, sets their scale"
        return (
            f"the weights have {number(self.scale)} times the scale that keeps a signal's spread"
            f" (median of these layers at step {self.first_step})"
        )

    def weight_advice(self, trace: Trace, direction: str) -> str:
        """How to draw the weights, with the numbers of the second layer."""
        layer = self.layers[1]
        if np.isnan(self.scale):
            return f"Look at the parametrization of {layer.module}: the weights that it makes must be {direction}"
        now = float(trace.statistics[Statistic.RMS][self.rows[0], layer.weight])
        asked = asked_gain(layer.activation) / np.sqrt(fan_in(trace, layer))
        return (
            f"Draw the weights {direction}: {layer.module} has an rms of {number(now)}, a std of {number(asked)} keeps"
            f" the spread before {layer.activation or 'a linear layer'}"
        )


def stretch_of(trace: Trace, profile: Profile, rises: Rises, lasting: Persistence) -> Stretch:
    """The stretch of the steps in `lasting`: where it lies in most of them."""
    rows = lasting.rows[rises.known[lasting.rows]]
    foot, top = (int(np.bincount(ends[rows]).argmax()) for ends in (rises.foot, rises.top))
    if top <= foot:  # the two are of different steps: take both from the first
        foot, top = int(rises.foot[rows[0]]), int(rises.top[rows[0]])
    layers = profile.layers[foot : top + 1]
    made = any(has_made_weight(trace, layer) for layer in layers[1:])
    return Stretch(
        layers=layers,
        sites=tuple(trace.sites[c] for c in profile.columns[foot : top + 1]),
        rows=rows,
        first_step=int(trace.steps[lasting.first]),
        last_step=int(trace.steps[lasting.last]),
        decades=float(np.median(rises.decades[rows])),
        per_layer=float(np.median(rises.per_layer[rows])),
        scale=float(scale_along(trace, profile, rises)[rows[0]]) if not made else float("nan"),
    )


def scale_along(trace: Trace, profile: Profile, rises: Rises) -> Doubles:
    """Median of `relative_scale` over the layers of each step's rise, the first of them excluded. Shape (step,)."""
    scales = np.stack([relative_scale(trace, layer) for layer in profile.layers], axis=1)
    at = np.arange(scales.shape[1])
    along = (rises.foot[:, None] < at) & (at <= rises.top[:, None]) & rises.known[:, None] & np.isfinite(scales)
    ordered = np.sort(np.where(along, scales, np.inf), axis=1)
    count, each = along.sum(axis=1), np.arange(len(scales))
    middle = (ordered[each, np.maximum(count - 1, 0) // 2] + ordered[each, count // 2]) / 2
    return np.where(count > 0, middle, np.nan)
