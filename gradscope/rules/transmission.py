"""What each kind of module passes back of the gradient that it receives: the numbers behind a cause."""

from dataclasses import dataclass

import numpy as np

from gradscope.records import Quantity
from gradscope.rules.activations import ACTIVATIONS, LARGEST_SLOPE
from gradscope.rules.learning import norms
from gradscope.rules.wording import count, number
from gradscope.trace import Ints, Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Transmission:
    """All activation functions of one kind between two depths.

    Attributes:
        module_type: Their class.
        count: How many there are.
        gain: Geometric mean of ‖∂L/∂x‖ / ‖∂L/∂y‖ over them, each the median over the steps.
    """

    module_type: str
    count: int
    gain: float

    def __str__(self) -> str:
        each = f"passes back {number(self.gain)}" if self.count == 1 else f"pass back {number(self.gain)} each"
        text = f"{count(self.count, self.module_type)} {each}"
        if self.module_type in LARGEST_SLOPE:
            text += f" (the slope of a {self.module_type} is at most {number(LARGEST_SLOPE[self.module_type])})"
        return text


def transmission_of_activations(trace: Trace, rows: Ints, shallow: int, deep: int) -> list[Transmission]:
    """What the activation functions between the depths `shallow` and `deep` pass back, the greatest loss first."""
    gains: dict[str, list[float]] = {}
    given = {trace.sites[c].module: c for c in reversed(trace.columns(Quantity.INPUT_GRAD))}
    for column in trace.columns(Quantity.OUTPUT_GRAD):
        site = trace.sites[column]
        if site.module_type in ACTIVATIONS and shallow < site.depth < deep and site.module in given:
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = norms(trace, given[site.module])[rows] / norms(trace, column)[rows]
            ratio = ratio[np.isfinite(ratio) & (ratio > 0)]
            if len(ratio):
                gains.setdefault(site.module_type, []).append(float(np.median(ratio)))
    found = [
        Transmission(module_type=kind, count=len(values), gain=float(np.exp(np.mean(np.log(values)))))
        for kind, values in gains.items()
    ]
    return sorted(found, key=lambda t: t.count * np.log(t.gain))
