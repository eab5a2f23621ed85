"""What every view of a difference says in the same words: sentences on runs, findings, layers and modules."""

from collections.abc import Iterator, Sequence

from gradscope.changes import BARS, STANDSTILL, Change, Measure
from gradscope.difference import Difference, Recorded
from gradscope.findings import Finding, Severity
from gradscope.gains import in_words
from gradscope.moves import Match
from gradscope.reports.names import on_one_line
from gradscope.reports.verdict_words import counted, leading, place, severities

MOST_NAMES = 6
MEASURE_WORDS = {
    Measure.GAIN: "gain of the gradient (‖∂L/∂x‖ / ‖∂L/∂y‖)",
    Measure.DEAD: "share of dead units",
    Measure.UPDATE: "update ratio (‖Δw‖ / ‖w‖ per step)",
}
_SHORT = {Measure.GAIN: "gain", Measure.DEAD: "dead units", Measure.UPDATE: "update ratio"}
BARS_SENTENCE = (
    f"A change is listed where the medians differ by a factor of {10 ** BARS[Measure.GAIN]:.2g} (gain) or"
    f" {10 ** BARS[Measure.UPDATE]:.2g} (update ratio), by {BARS[Measure.DEAD]:.0%} of the units and more than chance"
    " (dead units), and the middle halves of the steps do not overlap."
)


def headline(difference: Difference) -> str:
    """``1 finding appeared (1 error), 2 vanished, 1 moved; 3 layers changed``, or that nothing did."""
    appeared, vanished = leading(difference.appeared), leading(difference.vanished)
    parts = []
    if appeared:
        parts.append(f"{counted(len(appeared), 'finding')} appeared ({severities(appeared)})")
    for number, what in (
        (len(vanished), "vanished"),
        (len(difference.moved), "moved"),
        (len(difference.regraded), "changed severity"),
    ):
        if number:
            parts.append(f"{number} {what}" if parts else f"{counted(number, 'finding')} {what}")
    if layers := {change.layer for change in difference.changes}:
        parts.append(f"{counted(len(layers), 'layer')} changed markedly")
    if parts:
        return ", ".join(parts)
    return "no difference" if difference.is_empty else "no difference in what both have"


def about(one: Recorded) -> str:
    """``MLP, steps 0 to 49, every 10th: 1 error``."""
    trace, meta = one.trace, one.trace.meta
    first, last, every = int(trace.steps[0]), int(trace.steps[-1]), meta.get("every")
    steps = f"step {first}" if first == last else f"steps {first} to {last}"
    if isinstance(every, int) and every > 1:
        steps += f", every {_ordinal(every)} recorded"
    model = on_one_line(str(meta.get("model") or ""))
    found = severities(leading(one.diagnosis.findings)) or "no finding"
    return ": ".join([", ".join(filter(None, [model, steps])), found])


def _ordinal(number: int) -> str:
    """``2nd``, ``11th``, ``23rd``."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def finding_line(difference: Difference, finding: Finding, other: Recorded) -> tuple[str, str, str]:
    """Where it is, what it says, and what is to be kept in mind: ("act3", "85% of …", "A has no such module")."""
    return place(on_one_line(finding.module)), finding.message, difference.remark(finding, other=other)


def symptoms_of(finding: Finding, among: Sequence[Finding]) -> str:
    """``hence GS302 at 6 places, GS501 at 1``; "" where nothing of `among` follows from it."""
    codes = [f.code for f in among if f.caused_by == (finding.module, finding.code)]
    said = [f"{code} at {counted(codes.count(code), 'place')}" for code in dict.fromkeys(codes)]
    return f"hence {', '.join(said)}" if said else ""


def movement(match: Match) -> str:
    """``at act3, in A at act1; since step 40, in A since step 3``."""
    said = []
    if match.elsewhere:
        said.append(f"at {_at(match.b)}, in A at {_at(match.a)}")
    if match.at_another_time:
        said.append(f"since step {match.b.first_step}, in A since step {match.a.first_step}")
    return "; ".join(said)


def regrading(match: Match) -> str:
    """``an error, in A a warning``."""
    return f"{_graded(match.b.severity)}, in A {_graded(match.a.severity)}"


def _graded(severity: Severity) -> str:
    return {Severity.ERROR: "an error", Severity.WARNING: "a warning", Severity.INFO: "information"}[severity]


def _at(finding: Finding) -> str:
    return named([place(module) for module in finding.modules], 3)


def layer(change: Change) -> str:
    """The layer of a change, as A calls it; what B calls it differs by the prefix alone, which a remark names."""
    return on_one_line(in_words(change.module))


def value(measure: Measure, median: float) -> str:
    """A median as a person reads it: ×0.25, 85%, 1.2e-04, ≤ 1e-06."""
    if measure is Measure.DEAD:
        return f"{median:.0%}"
    if measure is Measure.UPDATE:
        return f"{10**median:.1e}" if median > STANDSTILL else f"≤ {10**STANDSTILL:.0e}"
    return f"×{10**median:.2g}" if abs(median) < 300 else f"×10^{median:.0f}"


def by(change: Change) -> str:
    """How far: ``+0.61 decades``, ``+40 points``."""
    if change.measure is Measure.DEAD:
        return f"{100 * change.by:+.0f} points".replace("-", "−")
    return f"{change.by:+.2f} decades".replace("-", "−")


def over(difference: Difference) -> str:
    """Over which steps the layers are compared, and how many of them."""
    both = len({change.layer for change in difference.compared.changes})
    steps = f"steps {difference.first} to {difference.last}"
    if not difference.shared:
        return f"{counted(both, 'layer')} compared over {steps}: the runs have too few steps in common"
    return f"{counted(both, 'layer')} compared over {steps}, which both runs have"


def remarks(difference: Difference) -> Iterator[str]:
    """What the models have in common and what not, a sentence each."""
    alignment = difference.alignment
    if alignment.prefix is not None:
        yield f"modules of {alignment.prefix.of.upper()} lie under {on_one_line(alignment.prefix.text[:-1])!r}"
    if not alignment.pairs:
        yield "the models have no module in common"
    for names, which in ((alignment.only_a, "A"), (alignment.only_b, "B")):
        if names:
            yield f"only in {which}: {counted(len(names), 'module')}: {named(names)}"
    if alignment.retyped:
        words = [f"{name} {one} → {other}" for name, (one, other) in alignment.retyped.items()]
        verb = "is" if len(words) == 1 else "are"
        yield f"{counted(len(words), 'module')} {verb} of another class: {named(words)}"
    for found, which in ((difference.compared.only_a, "A"), (difference.compared.only_b, "B")):
        for measure, names in found.items():
            yield f"{_SHORT[measure]} known only in {which}: {named([in_words(name) for name in names])}"


def named(names: Sequence[str], most: int = MOST_NAMES) -> str:
    """``fc1, fc2 and 3 more``."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(on_one_line(name) for name in names[:most]) + more
