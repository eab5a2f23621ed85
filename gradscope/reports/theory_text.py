"""Theory beside measurement for a person at a terminal: χ of each layer, and what it means where the two part."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from gradscope.budget import Budget, budget_of, signed
from gradscope.expected import AGREES, Expectation, Piece, expectations, meaning, one_chain, phase_of
from gradscope.findings import Json
from gradscope.kinds import Kind
from gradscope.reports.budget_text import GAP, no_budget
from gradscope.reports.names import on_one_line, shortened
from gradscope.reports.wide import heading
from gradscope.trace import Trace

THEORY_SCHEMA = "gradscope/theory/1"
MOST_LAYERS, MOST_NAMED = 40, 6
LEAST_LAYERS = 3  # that make a depth of which a phase speaks
MOST_APART = 2.0  # factor between measured and predicted χ per layer up to which they speak of one phase
NO_CHAIN = (
    "No total and no phase: paths branch or join here, and a gradient that comes through several of them is their sum,"
    " not the product of these factors."
)
HEADS = ("layer", "back through", "χ theory", "χ measured", "ratio")


@dataclass(frozen=True, slots=True, eq=False)
class TheoryView:
    """What rich prints."""

    trace: Trace

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The sum of all layers, a line for each, and what a disagreement means."""
        theory = theory_of(self.trace)
        yield heading("gradscope theory", Text(theory.headline, "bold"), options)
        if theory.reason:
            yield Text(theory.reason)
            return
        yield Text(theory.about, "dim")
        yield Text()
        yield from _table(theory.found[:MOST_LAYERS], options.max_width)
        if len(theory.found) > MOST_LAYERS:
            yield Text(f"and {len(theory.found) - MOST_LAYERS} more", "dim")
        yield Text()
        yield from map(Text, theory.sums)
        for where, why in theory.partings:
            yield Text.assemble((where, "yellow"), f": {why}.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Theory:
    """What there is to say of a recording, in sentences.

    Attributes:
        found: All layers, those without a theory among them; the last layer first.
        headline: How many are as predicted.
        reason: Why there is nothing to compare; "" if there is.
        about: What χ is, in which step, and what counts as agreement.
        sums: End to end, at the beginning and at the end, where the layers are one chain.
        partings: Where theory and measurement part, and what that means.
    """

    found: tuple[Expectation, ...]
    headline: str
    reason: str = ""
    about: str = ""
    sums: tuple[str, ...] = ()
    partings: tuple[tuple[str, str], ...] = ()


def theory_of(trace: Trace) -> Theory:
    """Theory beside measurement, in the words that every view uses."""
    budget = budget_of(trace)
    if budget is None:
        return Theory(found=(), headline="nothing to compare", reason=f"{no_budget(trace)}.")
    found = expectations(trace, budget)
    known = [one for one in found if not math.isnan(one.ratio)]
    if not known:
        return Theory(found=found, headline="nothing to compare", reason=f"{_no_theory(found)}.")
    off = [one for one in known if not one.agrees]
    layers = f"{len(known)} layer{'s' if len(known) != 1 else ''}"
    return Theory(
        found=found,
        headline=f"{len(known) - len(off)} of {layers} as predicted",
        about=(
            f"χ is the factor of the gradient's squared norm per layer, in step {trace.steps[budget.rows[0]]}:"
            f" σ_w² E[φ′(x)²] of the measured weights and activations; as predicted is {_tolerance(known)}"
        ),
        sums=tuple(_sums(trace, budget, found, known)),
        partings=tuple(_partings(off)),
    )


def _sums(trace: Trace, budget: Budget, found: Sequence[Expectation], known: Sequence[Expectation]) -> Iterator[str]:
    if not one_chain(trace, budget, found):
        yield NO_CHAIN
        return
    yield _sum(known)
    if len(budget.rows) > 1:
        later = [one for one in expectations(trace, budget, last=True) if not math.isnan(one.ratio)]
        if later:
            yield f"In step {trace.steps[budget.rows[-1]]}: {_sum(later)}"


def _partings(off: Sequence[Expectation]) -> Iterator[tuple[str, str]]:
    """By the kind of module at which they part."""
    parted: dict[Kind, list[Piece]] = {}
    for one in off:
        if (worst := one.worst) is not None:
            parted.setdefault(worst.term.kind, []).append(worst)
    for kind, pieces in parted.items():
        shown = ", ".join(
            f"{on_one_line(p.term.module) or '(model)'} ×{p.measured / p.predicted:.2g}" for p in pieces[:MOST_NAMED]
        )
        more = f" and {len(pieces) - MOST_NAMED} more" if len(pieces) > MOST_NAMED else ""
        yield f"off at {shown}{more}", meaning(kind)


def theory_document(trace: Trace) -> Json:
    """The same as JSON types; no layers where there is no budget, and why."""
    budget = budget_of(trace)
    if budget is None:
        return {"schema": THEORY_SCHEMA, "layers": [], "reason": f"{no_budget(trace)}."}
    first, last = expectations(trace, budget), expectations(trace, budget, last=True)
    return {
        "schema": THEORY_SCHEMA,
        "step": int(trace.steps[budget.rows[0]]),
        "layers": [one.to_dict() for one in first],
        "last_step": int(trace.steps[budget.rows[-1]]),
        "layers_at_the_end": [one.to_dict() for one in last],
    }


def _sum(known: Sequence[Expectation]) -> str:
    """End to end, of the layers of one chain that have a theory; what that means, from three layers on."""
    count = len(known)
    predicted, measured = (
        sum(math.log10(value) / 2 if value > 0 else -math.inf for value in values)
        for values in ([one.predicted for one in known], [one.measured for one in known])
    )
    layers = f"{count} layer{'s' if count > 1 else ''}"
    said = f"{signed(predicted, 2)} decades predicted over {layers}, {signed(measured, 2)} measured"
    if count < LEAST_LAYERS or not math.isfinite(predicted + measured):
        return f"{said}."
    theory, shown = (10 ** (2 * decades / count) for decades in (predicted, measured))
    if not 1 / MOST_APART <= shown / theory <= MOST_APART:
        return f"{said}: χ is {theory:.3g} per layer in theory and {shown:.3g} as measured, which tells no phase."
    what = {
        "ordered": "the gradient shrinks with depth",
        "critical": "the gradient is kept",
        "chaotic": "the gradient grows with depth",
    }[phase_of(shown)]
    return f"{said}; {phase_of(shown)}: χ is {shown:.3g} per layer as measured, {what}."


def _no_theory(found: Sequence[Expectation]) -> str:
    """Why there is nothing to compare."""
    lacking = [p.term for one in found for p in one.pieces if math.isnan(p.predicted)]
    kinds = dict.fromkeys(on_one_line(term.module_type or term.module) for term in lacking)
    if not kinds:
        return "no layer with weights lies on the way back"
    more = f" and {len(kinds) - MOST_NAMED} more" if len(kinds) > MOST_NAMED else ""
    return f"no layer of the way back has a theory: there is none of {', '.join([*kinds][:MOST_NAMED])}{more}"


def _tolerance(known: Sequence[Expectation]) -> str:
    most = max(one.tolerance for one in known)
    narrow = f", and up to {most:.2f} for the narrowest layer, which strays by chance" if most > AGREES else ""
    return f"within a factor of {AGREES}{narrow}"


def _table(found: Sequence[Expectation], width: int) -> Iterator[Text]:
    rows = [list(HEADS), *(cells(one) for one in found)]
    most = min(max(width - 2 * GAP - 28, 8), max(width * 2 // 5, 8))
    for row in rows:
        row[:2] = shortened(on_one_line(row[0]), most), on_one_line(row[1])
    sizes = [max(cell_len(row[c]) for row in rows) for c in range(len(HEADS))]
    shown = list(range(len(HEADS)))
    room = width - sum(sizes[c] + GAP for c in shown if c != 1) - GAP
    if room < 12:
        shown.remove(1)
    else:
        sizes[1] = min(sizes[1], room)
    for number, row in enumerate(rows):
        text = Text()
        for c in shown:
            cell = row[c] if cell_len(row[c]) <= sizes[c] else f"{row[c][: sizes[c] - 1]}…"
            fill = " " * (sizes[c] - cell_len(cell))
            style = "dim" if not number or c == 1 else "yellow" if c > 2 and not found[number - 1].agrees else ""
            text.append(f"{fill}{cell}" if c > 1 else f"{cell}{fill}", style).append(" " * GAP)
        text.rstrip()
        yield text


def cells(one: Expectation) -> list[str]:
    """A layer's line, under `HEADS`."""
    through = ", ".join(
        piece.term.module_type if not math.isnan(piece.predicted) else f"{piece.term.module_type} (no theory)"
        for piece in one.pieces
    )
    return [one.module, through, _written(one.predicted), _written(one.measured), _written(one.ratio, ".2f")]


def _written(value: float, digits: str = ".3g") -> str:
    return "-" if math.isnan(value) else format(value, digits)
