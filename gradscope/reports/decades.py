"""How far a logarithmic axis goes, whoever draws it."""

from collections.abc import Sequence

import numpy as np

from gradscope.trace import Doubles, Floats

MOST_DECADES_ABOVE = 8.0  # of the median of everything drawn
LEAST_DECADES = 4.0  # a log axis spans at least this, so that a healthy profile looks flat


def drawable(values: Doubles) -> Doubles:
    """Zero, NaN and Inf become gaps in a line on a logarithmic axis."""
    return np.where(np.isfinite(values) & (values > 0), values, np.nan)


def decades(positive: Doubles | Floats) -> tuple[float, float]:
    """log₁₀ of the smallest and the largest, at least `LEAST_DECADES` apart."""
    if not positive.size:
        return -LEAST_DECADES, 0.0
    low, high = float(np.log10(positive.min())), float(np.log10(positive.max()))
    missing = max(LEAST_DECADES - (high - low), 0.0)
    return low - missing / 2, high + missing / 2


def ends_of_axis(values: Sequence[Doubles], usual: Sequence[Doubles] = ()) -> tuple[float, float]:
    """log₁₀ of both ends; what explodes leaves the axis at the top, so that the rest can still be told apart.

    It explodes if it is `MOST_DECADES_ABOVE` above the median of `usual`, or of all values.
    """
    positive = _positive(values)
    low, high = decades(positive)
    normal = _positive(usual) if usual else positive
    if len(normal):
        high = min(high, max(float(np.log10(np.median(normal))) + MOST_DECADES_ABOVE, low + LEAST_DECADES))
    return low, high


def ends_of_colours(values: Doubles) -> tuple[float, float]:
    """The same for colours; a few cells of an explosion must not leave one colour for all others."""
    positive = _positive([values])
    return decades(np.quantile(positive, [0.002, 0.99]) if len(positive) else positive)


def _positive(values: Sequence[Doubles]) -> Doubles:
    everything: Doubles = np.concatenate([np.zeros(0), *(v.ravel() for v in values)])
    return everything[np.isfinite(everything) & (everything > 0)]
