"""How findings look at a terminal: a root with its cause, its remedy and what follows from it."""

import re
from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from gradscope.findings import Diagnosis, Finding, Role, Severity
from gradscope.reports.verdict_words import counted, from_root, heads

SEVERITY_STYLE = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow", Severity.INFO: "bold cyan"}
HEALTHY_STYLE = "bold green"
MOST_NAMES = 12  # that share one reason
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def diagnosis_parts(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    """Findings and rules that could not judge: what a blank line stands between."""
    for finding, folded in heads(diagnosis):
        follows = "" if finding.role is Role.ROOT else from_root(finding.caused_by)
        yield finding_with_symptoms(finding, folded, follows=follows)
    if diagnosis.not_judged:
        yield not_judged(diagnosis)


def diagnosis_lines(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    """A diagnosis without its trace: what `print(scope.diagnose())` of rich shows."""
    yield Text.assemble(
        verdict(diagnosis), (f"  {counted(diagnosis.steps, 'step')}, {counted(diagnosis.sites, 'site')}", "dim")
    )
    for part in diagnosis_parts(diagnosis):
        yield Text()
        yield part


def verdict(diagnosis: Diagnosis) -> Text:
    """How many findings of each severity lead; healthy only where every rule could judge."""
    if not diagnosis.steps:
        return Text("nothing recorded", SEVERITY_STYLE[Severity.WARNING])
    if not diagnosis.findings:
        rules = sum(item.rule != "recording" for item in diagnosis.not_judged)
        blind = f", {rules} rule{'s' if rules > 1 else ''} not judged" if rules else ""
        return Text(f"no finding{blind}" if diagnosis.not_judged else "healthy", HEALTHY_STYLE)
    first = [finding for finding, _ in heads(diagnosis)]
    counts = [(s, sum(f.severity is s for f in first)) for s in reversed(Severity)]
    said = [
        (f"{n} {s.value}{'s' if n > 1 and s is not Severity.INFO else ''}", SEVERITY_STYLE[s]) for s, n in counts if n
    ]
    return Text(", ").join(Text(words, style) for words, style in said)


def finding_with_symptoms(
    root: Finding, symptoms: Sequence[Finding], *, follows: str = "", written: str = ""
) -> RenderableType:
    """A root with its cause, its remedy and, a line for each code, what follows from it.

    Where `follows` says what `root` itself follows from, the others are symptoms beside it; `written` says in which
    line of which file the module is.
    """
    head = Text.assemble(
        (root.severity.value, SEVERITY_STYLE[root.severity]),
        f" {root.title.removesuffix(root.pathology)}",
        (root.pathology, "bold"),
        "  ",
        (_visible(root.module) or "(model)", "bold cyan"),
        (f"  {written}" if written else "", "dim"),
    )
    body = Table.grid(padding=(0, 1))
    body.add_column(style="dim", no_wrap=True, min_width=6)
    body.add_column()
    for label, text in (("", root.message), ("cause", root.cause), ("remedy", root.remedy)):
        if text:
            body.add_row(label, Text(_visible(text)))
    if follows:
        body.add_row("from", Text(_visible(follows).removeprefix("follows from ")))
    for group in by_code(symptoms).values():
        body.add_row("also" if follows else "hence", _symptoms(group))
    return Group(head, Padding(body, (0, 0, 0, 2)))


def not_judged(diagnosis: Diagnosis) -> RenderableType:
    """The rules that lacked data, those with the same reason in one line."""
    return grouped_by_reason("not judged", [(item.rule, item.reason) for item in diagnosis.not_judged]) or Text()


def grouped_by_reason(title: str, items: Sequence[tuple[str, str]]) -> RenderableType | None:
    """A line for each reason, behind the names of all that it holds for; None where there are no items."""
    reasons = by_reason(items)
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(style="dim")
    for index, (reason, names) in enumerate(reasons.items()):
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        grid.add_row("" if index else title, Text(f"{', '.join(names[:MOST_NAMES])}{more}: {reason}"))
    return grid if reasons else None


def by_reason(items: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The names that share each reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in items:
        reasons.setdefault(reason, []).append(name)
    return reasons


def by_code(symptoms: Iterable[Finding]) -> dict[str, list[Finding]]:
    """Findings of each kind."""
    by_code: dict[str, list[Finding]] = {}
    for finding in symptoms:
        by_code.setdefault(finding.code, []).append(finding)
    return by_code


def _symptoms(group: Sequence[Finding]) -> Text:
    """One symptom with its message; several of a kind with their number and places."""
    first = group[0]
    text = Text.assemble(first.title.removesuffix(first.pathology), (first.pathology, "bold"), " ")
    if len(group) == 1:
        return text.append(f"{_visible(first.module) or '(model)'}: {_visible(first.message)}", "dim")
    places = [_visible(f.module) or "(model)" for f in group]
    more = f" and {len(places) - 4} more" if len(places) > 4 else ""
    return text.append(f"at {len(places)} places: {', '.join(places[:4])}{more}", "dim")


def _visible(text: str) -> str:
    """`text` without what a terminal would obey: a module may be called anything."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)
