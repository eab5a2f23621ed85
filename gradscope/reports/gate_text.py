"""A verdict for a person at a terminal: a line for each target, its findings under it, what does not count, the end."""

from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.text import Text

from gradscope.findings import Severity
from gradscope.reports.diagnosis_text import HEALTHY_STYLE, SEVERITY_STYLE, finding_with_symptoms, grouped_by_reason
from gradscope.reports.verdict_words import (
    BROKEN,
    FAILED,
    MOST_PLACES,
    Shown,
    counted,
    duration,
    last_line,
    not_judged,
    notes,
    outcome,
    particulars,
    shown,
    standing,
)
from gradscope.verdict import Judged, Verdict

MOST_REASONS = 6  # for which rules could not judge
MOST_REASONS_PASSED = 2  # where all is well
WIDEST_STANDING = 40
RECORDING = "recording"  # in place of a rule's name, where the recording itself lacks something
TEXT_FILE_WIDTH = 100


@dataclass(frozen=True, slots=True, eq=False)
class VerdictView:
    """What rich prints for a verdict: nothing but a line for a target that is healthy."""

    verdict: Verdict

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Targets, then what holds for all of them."""
        targets = self.verdict.targets
        names = min(max((cell_len(one.target) for one in targets), default=0), options.max_width // 3)
        stands = [cell_len(standing(one, self.verdict.fail_on)) for one in targets]
        width = max((n for n in stands if n <= WIDEST_STANDING), default=0)
        apart = True  # nothing was printed yet, or a blank line
        for one in targets:
            details = list(_details(one))
            if details and not apart:
                yield Text()
            yield _target_line(one, self.verdict.fail_on, names, width)
            for part in details:
                yield part
                yield Text()
            apart = bool(details)
        if targets and not apart:
            yield Text()
        yield from self._remarks()
        style = HEALTHY_STYLE if self.verdict.ok else SEVERITY_STYLE[Severity.ERROR]
        whole = sum(one.duration_s for one in targets)
        yield Text.assemble((last_line(self.verdict), style), (f"  {duration(whole)}" if whole else "", "dim"))

    def _remarks(self) -> Iterator[RenderableType]:
        """What could not be judged and what does not count, and a blank line after it."""
        lacking = not_judged(self.verdict)
        rules = list(dict.fromkeys(rule for rule, _ in lacking if not rule.startswith(RECORDING)))
        if self.verdict.ok and len({reason for _, reason in lacking}) > MOST_REASONS_PASSED:
            # what small models give nothing to judge is no news; what the recording itself lacks is
            more = f" and {len(rules) - MOST_PLACES} more" if len(rules) > MOST_PLACES else ""
            yield Text(f"not judged {', '.join(rules[:MOST_PLACES])}{more}: --output-format json says why", "dim")
            lacking = [(rule, reason) for rule, reason in lacking if rule.startswith(RECORDING)]
        reasons = list(dict.fromkeys(reason for _, reason in lacking))
        first = set(reasons[:MOST_REASONS])
        grouped = grouped_by_reason("not judged", [(rule, reason) for rule, reason in lacking if reason in first])
        if grouped is not None:
            yield grouped
        if len(reasons) > MOST_REASONS:
            yield Text(f"not judged for {counted(len(reasons) - MOST_REASONS, 'more reason')}: see the JSON", "dim")
        remarks = list(notes(self.verdict))
        for remark in remarks:
            yield Text(remark, "dim")
        if remarks or not_judged(self.verdict):
            yield Text()


def _target_line(one: Judged, fail_on: Severity | None, names: int, width: int) -> Text:
    stands = standing(one, fail_on)
    style = SEVERITY_STYLE[Severity.ERROR] if outcome(one, fail_on) in (FAILED, BROKEN) else HEALTHY_STYLE
    if style == HEALTHY_STYLE and one.diagnosis.findings:
        style = SEVERITY_STYLE[one.diagnosis.worst or Severity.INFO]
    line = Text.assemble((one.target, "bold"), " " * (max(names - cell_len(one.target), 0) + 2), (stands, style))
    if more := particulars(one):
        line.append(" " * (max(width - cell_len(stands), 0) + 2)).append(more, "dim")
    return line


def _details(one: Judged) -> Iterator[RenderableType]:
    """What stands under a target's line, indented."""
    if one.error:
        yield Padding(Text(one.error), (0, 0, 0, 2))
    for item in shown(one):
        yield Padding(shown_finding(item), (0, 0, 0, 2))


def shown_finding(item: Shown) -> RenderableType:
    """A finding that leads, with what is folded under it and what it follows from."""
    return finding_with_symptoms(item.finding, item.folded, follows=item.follows, written=item.written)


def as_text(item: Shown) -> str:
    """The same for a file, without colour."""
    return plain(shown_finding(item), TEXT_FILE_WIDTH)


def plain(part: RenderableType, width: int) -> str:
    """`part` without colour, and without the blanks with which rich fills its lines up."""
    stream = StringIO()
    Console(file=stream, width=width, color_system=None, highlight=False).print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"
