"""A verdict as GitLab's code quality report: an entry for each rule and module that counts.

GitLab compares the report of a merge request with that of its target branch by the fingerprints, so known and
suppressed findings are left out. An entry needs a path and a line: where none is known, or the file lies outside of the
project, it is the first line of pyproject.toml, where the target is set up.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gradscope.findings import Json, Severity
from gradscope.reports.base import Destination, VerdictReport, write_text
from gradscope.reports.jsonfile import as_json
from gradscope.reports.verdict_words import SETTINGS, place
from gradscope.sources import Place, place_of
from gradscope.verdict import Identity, Verdict

SEVERITIES = {Severity.ERROR: "critical", Severity.WARNING: "major", Severity.INFO: "info"}
BROKEN = "not-judged"


@dataclass(frozen=True, slots=True)
class GitLab(VerdictReport):
    """A list of entries; a target that could not be judged is one, of severity blocker."""

    name: str = "gitlab"
    suffix: str = ".gitlab"
    about: str = "code quality report of GitLab"
    to_stream: bool = True

    def write_verdict(self, verdict: Verdict, destination: Destination) -> tuple[Path, ...]:
        """Writes one document."""
        entries = {str(entry["fingerprint"]): entry for entry in _entries(verdict)}  # they must be unique
        return write_text(as_json(list[Json](entries.values())), destination, "gradscope.gitlab")


def _entries(verdict: Verdict) -> Iterator[dict[str, Json]]:
    for one in verdict.targets:
        if one.error:
            said = f"{one.target} could not be judged: {one.error}"
            yield _entry(BROKEN, said, Identity(one.target, BROKEN, ""), "blocker", SETTINGS)
        for finding in one.diagnosis.findings:
            for identity in one.identities(finding):
                said = f"{finding.title} at {place(identity.module)} of {one.target}"
                found = place_of(identity.module, one.places) or SETTINGS
                severity = SEVERITIES[finding.severity]
                yield _entry(finding.code, f"{said}: {finding.message}", identity, severity, found)


def _entry(name: str, said: str, identity: Identity, severity: str, found: Place) -> dict[str, Json]:
    outside = Path(found.file).is_absolute()
    at = SETTINGS if outside else found
    return {
        "description": f"{said} ({found.file}:{found.line})" if outside else said,
        "check_name": name,
        "fingerprint": identity.fingerprint,
        "severity": severity,
        "location": {"path": at.file, "lines": {"begin": at.line}},
    }
