"""What theory expects of each layer of a recorded model, beside what was measured.

A layer here is one with weights and whatever lies before it, back to what the layer before returned: the weights, an
activation function, a normalisation. The factor is that of the gradient's squared norm, χ; for square layers it is that
of its mean square too.

Formula:
    χ = Π over the pieces;  weights: σ_w² = fan_in · E[w²];  activation: E[φ′(x)²], x normal with the measured mean and
    std of what it is given;  normalisation: E[γ²] / σ², σ² the variance that it divides by: before BatchNorm in theory
    σ_w² Var[x] of the layer there, x what that is given, else as measured.

Source: Poole et al. 2016; Schoenholz et al. 2017, eq. 9; Yang et al. 2019 for BatchNorm.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gradscope.budget import Budget
from gradscope.findings import Json
from gradscope.flow import flow_of
from gradscope.kinds import Kind
from gradscope.records import Quantity, Statistic
from gradscope.terms import Term
from gradscope.theory import slope_square
from gradscope.trace import Trace

AGREES = 1.25  # a factor in the mean square
CHANCE = 3.0  # standard deviations: ‖Wᵀδ‖² of n random inputs strays by √(2/n) of itself
CRITICAL = 1.1  # χ this near to 1 keeps a gradient over dozens of layers
_SHAPES = ("Flatten", "Unflatten", "Identity")  # they change no number
_MIXES = ("Linear", "NonDynamicallyQuantizableLinear", "Conv1d", "Conv2d", "Conv3d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One module's factor of the gradient's squared norm.

    Attributes:
        term: Of the budget.
        predicted: NaN where theory has nothing to say of it.
        measured: In the same step.
        units: Inputs of the weights; 0 of what has none.
    """

    term: Term
    predicted: float
    measured: float
    units: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """A layer's factor of the gradient's squared norm.

    Attributes:
        module: The layer.
        pieces: Itself, and what lies between it and the layer before.
    """

    module: str
    pieces: tuple[Piece, ...]

    @property
    def predicted(self) -> float:
        """χ; NaN where one of the pieces has no theory."""
        return math.prod(piece.predicted for piece in self.pieces)

    @property
    def measured(self) -> float:
        """The same as measured."""
        return math.prod(piece.measured for piece in self.pieces)

    @property
    def ratio(self) -> float:
        """Measured over predicted."""
        return self.measured / self.predicted if self.predicted else math.nan

    @property
    def tolerance(self) -> float:
        """The factor by which they may part: a narrow layer strays by chance."""
        units = min((piece.units for piece in self.pieces if piece.units), default=0)
        return max(AGREES, 1 + CHANCE * math.sqrt(2 / units)) if units else AGREES

    @property
    def agrees(self) -> bool:
        """Whether they are alike; also where there is nothing to compare."""
        return math.isnan(self.ratio) or 1 / self.tolerance <= self.ratio <= self.tolerance

    @property
    def phase(self) -> str:
        """What the predicted χ makes of a gradient that goes through many such layers."""
        return phase_of(self.predicted)

    @property
    def worst(self) -> Piece | None:
        """The piece at which theory and measurement part most; None where they agree."""
        if self.agrees:
            return None
        known = [p for p in self.pieces if 0 < p.predicted < math.inf and 0 < p.measured < math.inf]
        return max(known, key=lambda piece: abs(math.log(piece.measured / piece.predicted)), default=None)

    def to_dict(self) -> dict[str, Json]:
        """As JSON types."""
        pieces: list[Json] = [
            {
                "module": p.term.module,
                "module_type": p.term.module_type,
                "predicted": p.predicted,
                "measured": p.measured,
            }
            for p in self.pieces
        ]
        return {
            "module": self.module,
            "predicted": self.predicted,
            "measured": self.measured,
            "ratio": self.ratio,
            "phase": self.phase,
            "meaning": meaning(self.worst.term.kind) if self.worst is not None else "",
            "pieces": pieces,
        }


def phase_of(chi: float) -> str:
    """What χ makes of a gradient that goes through many such layers; "" where it is not known."""
    if math.isnan(chi):
        return ""
    if chi > CRITICAL:
        return "chaotic"
    return "ordered" if chi < 1 / CRITICAL else "critical"


def one_chain(trace: Trace, budget: Budget, found: Sequence[Expectation]) -> bool:
    """Whether the layers lie one behind the other, with no way around: only then their factors multiply."""
    flow = flow_of(trace)
    backbone = set(flow.backbone) if flow is not None else set()
    joins = any(term.kind in (Kind.SKIP, Kind.BRANCHES) for term in budget.terms)
    return not joins and all(piece.term.module in backbone for one in found for piece in one.pieces[:1])


def meaning(kind: Kind) -> str:
    """What it says if theory and measurement part at modules of this kind."""
    if kind is Kind.WEIGHTS:
        return (
            "weights and gradient are not independent: they have learnt, or the gradient lies in few directions, as"
            " where all samples look alike or the outputs are few"
        )
    if kind is Kind.ACTIVATION:
        return (
            "what it is given is not normal, or the gradient prefers units that are more or less open than the average:"
            " off its linear regime, or a degenerate batch"
        )
    return "what it divides by is not the spread that theory expects: a small or degenerate batch, or unlike units"


def expectations(trace: Trace, budget: Budget, *, last: bool = False) -> tuple[Expectation, ...]:
    """All layers of the way back, the last first, in the first of the steps that count; or in the last.

    Of a branch too, as far as its gradients are known.
    """
    step = budget.rows[-1 if last else 0]
    makes = _Predicts(trace, step)
    found = []
    for chain, early in _chains(budget.terms, budget.early):
        for start, stop in _layers(chain):
            pieces = tuple(makes.piece(chain[at:], early) for at in range(start, stop))
            found.append(Expectation(module=pieces[0].term.module or "(model)", pieces=pieces))
    return tuple(found)


def _chains(terms: Sequence[Term], early: str) -> Iterator[tuple[Sequence[Term], str]]:
    """The terms between places where paths join, and those of the branches; with the module that each leads back to."""
    chain: list[Term] = []
    for term in terms:
        if term.kind in (Kind.SKIP, Kind.BRANCHES):
            yield chain, ""  # what is before a join is no module's output
            for branch in term.within:
                yield from _chains(branch.within, branch.leads_to)
            chain = []
        else:
            chain.append(term)
    yield chain, early


def _layers(terms: Sequence[Term]) -> Iterator[tuple[int, int]]:
    """From each term with weights to the next."""
    starts = [i for i, term in enumerate(terms) if term.kind is Kind.WEIGHTS]
    yield from pairwise([*starts, len(terms)])


class _Predicts:
    """Factors by theory, in one step."""

    def __init__(self, trace: Trace, step: int) -> None:
        self._trace = trace
        self._step = step
        self._outputs = {trace.sites[c].module: c for c in reversed(trace.columns(Quantity.OUTPUT))}
        self._shapes = shapes if isinstance(shapes := trace.meta.get("shapes"), dict) else {}

    def piece(self, terms: Sequence[Term], early: str) -> Piece:
        """The first of `terms`."""
        shape = self._shapes.get(f"{terms[0].module}.weight".lstrip("."))
        mixes = terms[0].kind is Kind.WEIGHTS and isinstance(shape, list) and len(shape) > 1
        return Piece(
            term=terms[0],
            predicted=self.factor(terms, early),
            measured=float(10 ** (2 * terms[0].per_step[self._step])),
            units=int(str(shape[1])) if mixes and isinstance(shape, list) else 0,
        )

    def factor(self, terms: Sequence[Term], early: str) -> float:
        """Of the first of `terms`; the others lie before it, and before them all what `early` returns."""
        term, before = terms[0], [*(t.module for t in terms[1:]), early]
        known = not terms[1:] or terms[1].is_module
        if term.kind is Kind.WEIGHTS:
            return self._spread_of_weights(term.module, term.module_type)
        if term.kind is Kind.ACTIVATION and known:
            mean, std = (self._output(before[0], stat) for stat in (Statistic.MEAN, Statistic.STD))
            slope = slope_square(term.module_type, mean, std) if math.isfinite(mean + std) else None
            return math.nan if slope is None else slope
        if term.module_type in _SHAPES:
            return 1.0
        if term.kind is Kind.NORMALISATION and known:
            return self._normalisation(term, terms[1:], before)
        if term.module_type == "Dropout" and known:
            kept = 1 - self._output(term.module, Statistic.ZERO_FRACTION)
            return (1 - self._output(before[0], Statistic.ZERO_FRACTION)) / kept if kept > 0 else math.nan
        return math.nan

    def _normalisation(self, term: Term, terms: Sequence[Term], before: Sequence[str]) -> float:
        scale = self._weight(term.module, ("weight",))
        scale = 1.0 if scale is None else scale
        if term.module_type.startswith("BatchNorm") and terms and terms[0].kind is Kind.WEIGHTS and len(before) > 1:
            given = self._output(before[1], Statistic.STD) if len(terms) < 2 or terms[1].is_module else math.nan
            spread = self._spread_of_weights(terms[0].module, terms[0].module_type) * given**2
            if math.isfinite(spread) and spread > 0:
                return scale / spread
        stat = Statistic.RMS if "RMS" in term.module_type else Statistic.STD
        divisor = self._output(before[0], stat) ** 2
        return scale / divisor if divisor > 0 else math.nan

    def _spread_of_weights(self, module: str, module_type: str) -> float:
        """σ_w² = fan_in · E[w²] of a layer that sums over its inputs; NaN of others."""
        square = self._weight(module, ("weight", "parametrizations.weight.original"))
        shape = self._shapes.get(f"{module}.weight".lstrip("."))
        if square is None or module_type not in _MIXES or not isinstance(shape, list) or len(shape) < 2:
            return math.nan
        return square * math.prod(int(str(n)) for n in shape[1:])

    def _weight(self, module: str, names: tuple[str, ...]) -> float | None:
        """E[w²]."""
        for name in names:
            for column in self._trace.columns(Quantity.WEIGHT, module, name):
                return float(self._trace.statistics[Statistic.RMS][self._step, column]) ** 2
        return None

    def _output(self, module: str, stat: Statistic) -> float:
        column = self._outputs.get(module)
        return math.nan if column is None else float(np.float64(self._trace.statistics[stat][self._step, column]))
