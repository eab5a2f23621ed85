"""GS504: units that start identical and stay so."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradscope.errors import NotJudged
from gradscope.findings import Finding, Severity
from gradscope.records import Quantity, Statistic
from gradscope.rules.base import Rule
from gradscope.rules.layers import LOOKUPS, Layer, learned_layers, size_of
from gradscope.trace import Doubles, Trace


@dataclass(frozen=True)
class SymmetricInit(Rule):
    """The units of a layer are copies of each other, so all of them learn the same.

    What it means: a layer of any width is worth one unit.
    How it is measured: symmetric_fraction, the share of rows of a weight that equal another row, in the first record
        and in every later one that measures it (the fifth, the ninth, and then ever fewer), where rows that began equal
        and not zero count as long as they differ by less than a tenth of the way that they have come; and weights
        whose elements are all the same.
    Why the threshold: random rows never agree; half of the rows equal, at the start and still after training steps, is
        no chance. Gradient descent keeps two units with the same weights and biases equal for ever; random biases alone
        pull them apart so slowly that they differ by 1 % of the way after 60 steps, those of a constant head by 30 %.
    What to try: random initial weights; zero is fine for biases, and for one last layer behind a random one.
    Where it stays silent: a head, adapter or residual branch that starts at zero and moves apart in the next steps;
        look-up tables, whose rows are no units; frozen weights.
    Source: Goodfellow, Bengio & Courville 2016, Deep Learning, section 8.4.
    """

    code = "GS504"
    name = "symmetric-init"
    reads = frozenset({Quantity.WEIGHT})

    min_share: float = 0.5
    min_steps: int = 3

    def check(self, trace: Trace) -> Iterator[Finding]:
        """One finding for all layers that stay symmetric."""
        trained = {(s.module, s.name) for s in trace.sites if s.quantity is Quantity.WEIGHT_GRAD}
        layers = [
            layer
            for layer in learned_layers(trace)
            if layer.module_type not in LOOKUPS and (layer.module, trace.sites[layer.weight].name) in trained
        ]
        if not layers:
            raise NotJudged("needs a trainable weight of a layer that ran; the trace has none")
        if len(trace.steps) < self.min_steps:
            raise NotJudged(f"needs {self.min_steps} steps, the trace has {len(trace.steps)}")
        shares = {layer: _equal_rows(trace, layer) for layer in layers}
        found = []
        for layer, share in shares.items():
            seen = share[~np.isnan(share)]
            if len(seen) >= 2 and seen.min() >= self.min_share:
                found.append(layer)
        if not found:
            return
        worst = max(found, key=lambda layer: (size_of(trace, layer.weight), -layer.depth))
        share = shares[worst]
        seen_at = np.flatnonzero(~np.isnan(share))
        value = float(trace.statistics[Statistic.MEAN][0, worst.weight])
        constant = float(trace.statistics[Statistic.STD][0, worst.weight]) == 0.0
        names = ", ".join(layer.module for layer in found[:4]) + ("…" if len(found) > 4 else "")
        names = f" ({len(found)} layers in all: {names})" if len(found) > 1 else ""
        yield Finding(
            code=self.code,
            pathology=self.name,
            severity=Severity.ERROR,
            module=worst.module,
            sites=tuple(trace.sites[layer.weight] for layer in found),
            alike=tuple(layer.module for layer in found),
            first_step=int(trace.steps[seen_at[0]]),
            last_step=int(trace.steps[seen_at[-1]]),
            measured=float(share[seen_at[-1]]),
            threshold=self.min_share,
            unit="share of rows",
            message=(
                f"{share[seen_at[-1]]:.0%} of the units of {worst.module} are copies of each other, from step"
                f" {trace.steps[seen_at[0]]} to step {trace.steps[seen_at[-1]]}{names}."
            ),
            cause=(
                f"Every element of its weight started at {value:g}, so its units get the same gradient."
                if constant
                else "Its units started with the same weights, so they get the same gradient."
            ),
            remedy=f"Draw the weight of {worst.module} at random, with nn.init.kaiming_normal_ or xavier_uniform_.",
        )


def _equal_rows(trace: Trace, layer: Layer) -> Doubles:
    """symmetric_fraction over the steps, 1 where all elements are the same; NaN where not measured."""
    share = trace.statistics[Statistic.SYMMETRIC_FRACTION][:, layer.weight].astype(np.float64)
    spread = trace.statistics[Statistic.STD][:, layer.weight]
    rows = size_of(trace, layer.bias) if layer.bias is not None else np.sqrt(size_of(trace, layer.weight))
    if rows >= 2:
        share[spread == 0] = 1.0
    return share
