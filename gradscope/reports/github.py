"""A verdict for GitHub Actions: annotations at the lines of the model, and the summary of the step.

Annotations are lines of the log that the runner picks out. It shows ten errors and ten warnings of a step, so a root is
one annotation and its symptoms are told in it.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gradscope.findings import Severity
from gradscope.reports.base import Destination, VerdictReport, write_text
from gradscope.reports.markdown import markdown
from gradscope.reports.verdict_words import Shown, counted, last_line, notes, place, shown
from gradscope.sources import Place, place_of
from gradscope.verdict import Judged, Verdict

SUMMARY, WORKSPACE = "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"
LARGEST_SUMMARY = 1_000_000  # bytes; GitHub takes a mebibyte a step, of all that write to it
COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


@dataclass(frozen=True, slots=True)
class GitHub(VerdictReport):
    """Workflow commands; the summary goes to the file that the runner has named, where there is one."""

    name: str = "github"
    suffix: str = ".github"
    about: str = "annotations and step summary of GitHub Actions"
    to_stream: bool = True

    def write_verdict(self, verdict: Verdict, destination: Destination) -> tuple[Path, ...]:
        """Writes a command for each finding that leads, and the summary."""
        summary = os.environ.get(SUMMARY)
        if summary:
            with suppress(OSError):  # the verdict does not depend on it
                _append(_shortened(markdown(verdict)), Path(summary))
        return write_text("".join(f"{line}\n" for line in _commands(verdict)), destination, "gradscope.github")


def _append(text: str, path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _shortened(text: str) -> str:
    """At most as much as GitHub takes; it would show nothing of more."""
    if len(text.encode()) <= LARGEST_SUMMARY:
        return text
    kept = text.encode()[:LARGEST_SUMMARY].decode(errors="ignore").rpartition("\n</details>\n")[0]
    return f"{kept}\n</details>\n\nThe rest is too long for a summary; the log has it.\n"


def _commands(verdict: Verdict) -> Iterator[str]:
    for one in verdict.targets:
        if one.error:
            yield command("error", one.error, title=f"gradscope: {one.target} could not be judged")
        for item in sorted(shown(one), key=lambda item: -item.finding.severity.rank):
            yield _annotation(one, item)
    yield from notes(verdict)
    yield last_line(verdict)


def _annotation(one: Judged, item: Shown) -> str:
    finding = item.finding
    said = [finding.message, finding.cause, finding.remedy, item.follows]
    if item.folded:
        codes = ", ".join(dict.fromkeys(symptom.title for symptom in item.folded))
        beside = "Also at" if item.follows else "Hence"
        said.append(f"{beside} {counted(len(item.folded), 'more finding')}: {codes}.")
    title = f"{finding.title}: {place(finding.module)} of {one.target}"
    found = place_of(finding.module, one.places)
    where = {} if found is None else {"file": _from_workspace(found), "line": str(found.line)}
    return command(COMMANDS[finding.severity], "\n".join(filter(None, said)), **where, title=title)


def _from_workspace(found: Place) -> str:
    """Of a file outside of the project, but in the runner's folder, what follows that folder's name."""
    workspace = os.environ.get(WORKSPACE, "").replace(os.sep, "/").rstrip("/")
    return found.file.removeprefix(f"{workspace}/") if workspace else found.file


def command(name: str, message: str, **properties: str) -> str:
    """A workflow command on one line, escaped as the runner unescapes it."""
    written = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    return f"::{name} {written}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
