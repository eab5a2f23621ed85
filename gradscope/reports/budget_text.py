"""The gradient budget for a person at a terminal: the sentence, the kinds, and a table nested like the modules are."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from gradscope.budget import Budget, budget_of, signed, why_none
from gradscope.findings import Json
from gradscope.kinds import Kind
from gradscope.reports.names import on_one_line, shortened
from gradscope.reports.wide import heading
from gradscope.terms import Term
from gradscope.trace import Trace

BUDGET_SCHEMA = "gradscope/budget/1"
MOST_LINES, LEAST_LINES = 60, 12  # fewer would tell nothing of a deep net
LEAST_BAR, MOST_BAR = 8, 40
GAP = 2
BESIDE = "in brackets: within a branch or a recurrence, part of no sum"
SHRINKS, GROWS = "#6f84f5", "#e0a020"  # as small and large in the charts


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Attributes:
        name: What stands first, without its indent.
        level: How far it is indented.
        what: Its class, or how many modules it holds.
        gain: The factor, as text; "" where it has none of its own.
        decades: What it does; NaN where that is not known.
        counts: Whether it is part of the sum.
        style: Of the name.
        note: What more is known, for a line of its own.
    """

    name: str
    level: int
    what: str
    gain: str
    decades: float
    counts: bool = True
    style: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class BudgetView:
    """What rich prints."""

    trace: Trace

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The sentence first, then kinds and modules."""
        budget = budget_of(self.trace)
        whole = Text(f"{signed(budget.decades)} decades" if budget is not None else "unknown", "bold")
        yield heading("gradscope budget", whole, options)
        if budget is None:
            yield Text(f"{no_budget(self.trace)}.")
            return
        yield from budget_lines(budget, options)


def budget_lines(budget: Budget, options: ConsoleOptions) -> Iterator[Text]:
    """The sentence, then kinds and modules."""
    yield Text(on_one_line(budget.sentence))
    yield Text(what_it_counts(budget), "dim")
    yield Text()
    yield Text("By kind", "bold")
    yield from table(kind_lines(budget), options)
    yield Text()
    yield Text.assemble(("By module", "bold"), ("   from the loss back", "dim"))
    lines = module_lines(budget)
    yield from table(lines, options)
    if any(not line.counts for line in lines):
        yield Text(BESIDE, "dim")


def what_it_counts(budget: Budget) -> str:
    """What a decade is of, over which steps, and what its sign means."""
    return f"log10 of ‖∂L/∂x‖ / ‖∂L/∂y‖, {_counted(budget)}; negative is lost on the way back"


def kind_lines(budget: Budget) -> list[Line]:
    """A line for each kind, what a recurrence does through time last."""
    kinds = [Line(kind.value, 0, "", "", decades) for kind, decades in budget.by_kind.items()]
    through = sum(inner.decades for term in budget.beside for inner in term.within)
    if budget.beside:
        kinds.append(Line(Kind.RECURRENCE.value, 0, "", "", through, counts=False))
    return kinds


def module_lines(budget: Budget, *, most: int = MOST_LINES) -> list[Line]:
    """The modules from the loss back, at most `most` lines of them, and the recurrences at which the way ends."""
    beside = (line for term in budget.beside for line in _line(term, "", 0, within=True))
    return [*fitting(budget.terms, most=most), *beside]


def no_budget(trace: Trace) -> str:
    """That there is none, and why."""
    return f"no budget: {on_one_line(why_none(trace))}"


def _counted(budget: Budget) -> str:
    """Which steps count, and why these."""
    if len(budget.rows) == 1:
        return f"step {budget.steps[0]}" if budget.steps else "one step"
    if budget.recorded <= len(budget.rows):
        return f"mean over {len(budget.rows)} steps"
    return f"mean over the middle half of the steps by their total, {len(budget.rows)} of {budget.recorded}"


def budget_document(trace: Trace) -> Json:
    """The budget as JSON types; null where there is none, and why."""
    budget = budget_of(trace)
    if budget is None:
        return {"schema": BUDGET_SCHEMA, "budget": None, "reason": f"{no_budget(trace)}."}
    steps: list[Json] = list(budget.steps)
    return {"schema": BUDGET_SCHEMA, "budget": budget.to_dict(), "steps": steps}


def fitting(terms: Sequence[Term], most: int = MOST_LINES) -> list[Line]:
    """At most `most` lines: with what lies within, without it, with the deepest modules added up, or the largest."""
    for levels in (None, *range(12, -1, -1)):
        for within in (True, False):
            lines = list(_lines(terms, "", 0, levels, within=within))
            if len(lines) <= most and (levels is None or len(lines) >= LEAST_LINES):
                return lines
    alone = [line for term in terms for line in _line(term, "", 0, within=False)]
    order = sorted(range(len(alone)), key=lambda i: -abs(alone[i].decades))
    kept, rest = sorted(order[: most - 1]), order[most - 1 :]
    decades = sum(alone[i].decades for i in rest)
    return [*(alone[i] for i in kept), Line(f"{len(rest)} more", 0, "", "", decades, style="dim")]


def _lines(terms: Sequence[Term], prefix: str, level: int, levels: int | None, *, within: bool) -> Iterator[Line]:
    """Terms that follow each other in one container under `prefix` stand under it."""
    for container, group in groupby(terms, key=lambda term: _container(term, prefix)):
        inside = list(group)
        if container is None or len(inside) == 1:
            for term in inside:
                yield from _line(term, prefix, level, within=within)
            continue
        whole = _common(inside)
        modules = len({term.module for term in inside if term.is_module})
        count = f"{modules} module{'s' if modules != 1 else ''}" if modules else ""
        yield Line(_under(prefix, whole), level, count, "", sum(term.decades for term in inside), style="bold")
        if levels is None or level < levels:
            yield from _lines(inside, whole, level + 1, levels, within=within)


def _line(term: Term, prefix: str, level: int, *, within: bool, counts: bool = True) -> Iterator[Line]:
    name, what, style = _named(term, prefix)
    told = not math.isnan(term.decades) and term.kind is not Kind.BRANCHES
    gain = f"×{term.gain:.3g}" if told and not term.about else ""
    note = term.about if within and not term.is_module else ""
    yield Line(name, level, what, gain, term.decades, counts, style, note)
    for inner in term.within if within else ():
        yield from _line(inner, term.module, level + 1, within=within, counts=False)


def _named(term: Term, prefix: str) -> tuple[str, str, str]:
    """What a term is called under its containers, what it is, and in which style."""
    module = _under(prefix, term.module)
    if term.is_between:
        return f"{module}: {term.module_type}" if module else term.module_type, "functions", "dim"
    if term.kind is Kind.SKIP:
        return f"{module}: branch and skip" if module else "branch and skip", "", ""
    if term.module_type in ("branches", "branch"):
        return f"{term.module_type} {module}".strip(), "", "" if term.module_type == "branches" else "dim"
    if term.module_type == "time steps":
        layer = term.module.partition(" ")[2]  # of several layers and directions of one module
        return f"{layer}: {term.about}" if layer else term.about, "time steps", "dim"
    what = f"{term.module_type}, {term.calls} calls" if term.calls > 1 else term.module_type
    return module or "(model)", what if term.exact else f"{what} ~", ""


def _under(prefix: str, module: str) -> str:
    """The rest of a module's name, below a container's."""
    if module == prefix:
        return ""
    return module.removeprefix(f"{prefix}.") if prefix else module


def _container(term: Term, prefix: str) -> str | None:
    """The next container under `prefix` that a term lies in; None where it lies in no further one."""
    first, dot, _ = _under(prefix, term.module).partition(".")
    return first if first and (dot or not term.is_module) else None


def _common(terms: Sequence[Term]) -> str:
    """The innermost container that holds all of them."""
    paths = [term.module.split(".")[: -1 if term.is_module else None] for term in terms]
    shared: list[str] = []
    for level in zip(*paths, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)


# ---------------------------------------------------------------- how it looks


def table(lines: Sequence[Line], options: ConsoleOptions) -> Iterator[Text]:
    """Names, classes, gains, decades and bars; what has no room goes, the bars last of all."""
    ascii_only, width = options.ascii_only, options.max_width
    largest = max((abs(line.decades) for line in lines if line.counts and not math.isnan(line.decades)), default=0.0)
    rows = [
        [_fit("  " * line.level + line.name, width * 2 // 5), on_one_line(line.what), line.gain, decades_of(line)]
        for line in lines
    ]
    sizes = [max((cell_len(row[c]) for row in rows), default=0) for c in range(4)]
    shown = [c for c in range(4) if sizes[c]]
    for optional in (None, 2, 1):
        shown = [column for column in shown if column != optional]
        room = width - sum(sizes[c] + GAP for c in shown)
        if room >= LEAST_BAR:
            break
    for line, row in zip(lines, rows, strict=True):
        text = Text()
        for c in shown:
            style = (line.style, "dim", "", "" if line.counts else "dim")[c]
            fill = " " * (sizes[c] - cell_len(row[c]))
            text.append(f"{fill}{row[c]}" if c > 1 else f"{row[c]}{fill}", style).append(" " * GAP)
        text.append_text(_bar(line, largest, max(min(room, MOST_BAR), 1), ascii_only=ascii_only)).rstrip()
        yield text
        if line.note:
            yield Text(_fit("  " * (line.level + 1) + line.note, width), "dim")


def _fit(name: str, width: int) -> str:
    return shortened(on_one_line(name), width)


def decades_of(line: Line) -> str:
    """With a sign; in brackets what is part of no sum, "" where it is not known."""
    if math.isnan(line.decades):
        return ""
    text = signed(line.decades, 2)
    return text if line.counts else f"({text})"


def _bar(line: Line, largest: float, width: int, *, ascii_only: bool) -> Text:
    if math.isnan(line.decades) or not largest:
        return Text()
    cells = min(abs(line.decades) / largest, 1.0) * width
    full, half = int(cells), cells - int(cells) >= 0.5
    block, part = ("#" if line.counts else "-", "") if ascii_only else ("█" if line.counts else "░", "▌")
    drawn = block * full + (part if half and line.counts else "")
    return Text(drawn, SHRINKS if line.decades < 0 else GROWS)
