"""A verdict as Markdown, as GitHub shows it: a table of the targets, and one of the findings of each."""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gradscope.findings import Severity
from gradscope.reports.base import Destination, VerdictReport, write_text
from gradscope.reports.gate_text import as_text
from gradscope.reports.verdict_words import (
    last_line,
    leading,
    not_judged,
    notes,
    outcome,
    particulars,
    place,
    severities,
    shown,
)
from gradscope.verdict import Judged, Verdict

_SPECIAL = re.compile(r"([\\`*_\[\]#|~!])")


@dataclass(frozen=True, slots=True)
class Markdown(VerdictReport):
    """Tables; the whole of each finding is folded away below them."""

    name: str = "markdown"
    suffix: str = ".md"
    about: str = "tables for a pull request"
    to_stream: bool = True

    def write_verdict(self, verdict: Verdict, destination: Destination) -> tuple[Path, ...]:
        """Writes one document."""
        return write_text(markdown(verdict), destination, "gradscope.md")


def markdown(verdict: Verdict) -> str:
    """The whole document."""
    parts = [f"## gradscope {last_line(verdict)}"]
    if verdict.targets:
        parts.append("\n".join(_table(["target", "verdict", "found", ""], _targets(verdict))))
    for one in verdict.targets:
        parts += _findings(one)
    remarks = [f"- not judged: {escaped(rule)}: {escaped(reason)}" for rule, reason in not_judged(verdict)]
    remarks += [f"- {escaped(note)}" for note in notes(verdict)]
    if remarks:
        parts.append("\n".join(remarks))
    return "\n\n".join(parts) + "\n"


def _targets(verdict: Verdict) -> Iterator[list[str]]:
    for one in verdict.targets:
        found = escaped(one.error) if one.error else severities(leading(one.diagnosis.findings))
        yield [code(one.target), outcome(one, verdict.fail_on), found, particulars(one)]


def _findings(one: Judged) -> list[str]:
    """The findings of one target, those that lead."""
    items = list(shown(one))
    if not items:
        return []
    rows = [
        [
            _severity(item.finding.severity),
            item.finding.title,
            code(place(item.finding.module)),
            escaped(item.finding.message),
            code(item.written) if item.written else "",
        ]
        for item in items
    ]
    parts = [f"### {escaped(one.target)}", "\n".join(_table(["", "rule", "module", "what", "where"], rows))]
    for item in items:
        summary = f"{item.finding.title} at {place(item.finding.module)}"
        text = fenced(as_text(item).rstrip())
        parts.append(f"<details><summary>{_as_html(summary)}</summary>\n\n{text}\n\n</details>")
    return parts


def _severity(severity: Severity) -> str:
    return f"**{severity.value}**" if severity is Severity.ERROR else severity.value


def _table(head: list[str], rows: Iterator[list[str]] | list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def escaped(text: str) -> str:
    """Text on one line that means nothing to Markdown; nobody is notified by an @."""
    return _SPECIAL.sub(r"\\\1", html.escape(_one_line(text), quote=False)).replace("@", "&#64;")


def _as_html(text: str) -> str:
    return html.escape(_one_line(text), quote=False).replace("@", "&#64;")


def code(text: str) -> str:
    """The same as code; a table wants its bars escaped there too."""
    text = _one_line(text)
    fence = "`" * (_longest_run(text) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|")


def fenced(text: str) -> str:
    """A block of code around lines that may hold any backticks."""
    fence = "`" * max(_longest_run(text) + 1, 3)
    return f"{fence}text\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _one_line(text: str) -> str:
    return " ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split())
