"""A verdict as SARIF 2.1.0, for code scanning: a result for each rule and module, where the user has written it.

A result needs a line to be shown at. Of a module of an installed package none is known: it is shown at the first line
of pyproject.toml, where the target is set up, and its logical location says which module it is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

from gradscope import plugins
from gradscope.explanations import explanation, sections
from gradscope.findings import Finding, Json, Severity
from gradscope.records import Site
from gradscope.reports.base import Destination, VerdictReport, write_text
from gradscope.reports.jsonfile import as_json
from gradscope.reports.verdict_words import SETTINGS, place
from gradscope.sources import Place, place_of
from gradscope.verdict import Identity, Judged, Verdict

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
FINGERPRINT = "gradscope/v1"
ROOT = "%SRCROOT%"
MOST_RELATED = 20
LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


@dataclass(frozen=True, slots=True)
class Sarif(VerdictReport):
    """One run; known findings are `unchanged`, vanished ones `absent`, suppressed ones have their reason."""

    name: str = "sarif"
    suffix: str = ".sarif"
    about: str = "SARIF 2.1.0, for code scanning"
    to_stream: bool = True

    def write_verdict(self, verdict: Verdict, destination: Destination) -> tuple[Path, ...]:
        """Writes one document."""
        document: Json = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(verdict)]}
        return write_text(as_json(document), destination, "gradscope.sarif")


def _run(verdict: Verdict) -> dict[str, Json]:
    rules = _rules(verdict)
    index = {str(rule["id"]): i for i, rule in enumerate(rules)}
    return {
        "tool": {
            "driver": {
                "name": "gradscope",
                "version": version("gradscope"),
                "semanticVersion": version("gradscope"),
                "shortDescription": {"text": "Finds the layer and the step at which a gradient goes wrong."},
                "language": "en-US",
                "rules": list[Json](rules),
            }
        },
        "automationDetails": {"id": "gradscope/"},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {ROOT: {"description": {"text": "The root of the project's repository."}}},
        "invocations": [
            {
                "executionSuccessful": not verdict.broken,
                "exitCode": verdict.exit_code,
                "toolExecutionNotifications": list[Json](_notifications(verdict, index)),
            }
        ],
        "results": list[Json](_results(verdict, index)),
    }


# ---------------------------------------------------------------- rules


def _rules(verdict: Verdict) -> list[dict[str, Json]]:
    """All rules that were asked, and whatever else has found something, by code."""
    named: dict[str, str] = {}
    for one in verdict.targets:
        named |= dict.fromkeys(one.rules, "")
        suppressed = [item.finding for item in one.suppressed]
        named |= {f.code: f.pathology for f in (*one.diagnosis.findings, *one.known, *suppressed)}
        named |= {gone.code: named.get(gone.code, "") for gone in one.vanished}
    installed = {getattr(rule, "code", ""): rule for rule in plugins.load("rules")} if named else {}
    return [_rule(code, named[code], installed.get(code)) for code in sorted(named)]


def _rule(code: str, name: str, rule: object | None) -> dict[str, Json]:
    name = str(getattr(rule, "name", name) or code)
    paragraphs = sections(explanation(rule))
    first = next((text for label, text in paragraphs if not label), name)
    labelled = [(label, text) for label, text in paragraphs if label]
    means = " ".join([first, *(text[:1].upper() + text[1:] for label, text in labelled if label == "What it means")])
    plain = "\n\n".join([first, *(f"{label}: {text}" for label, text in labelled)])
    marked = "\n\n".join([first, *(f"**{label}:** {text}" for label, text in labelled)])
    return {
        "id": code,
        "name": name,
        "shortDescription": {"text": first},
        "fullDescription": {"text": means},
        "help": {"text": plain, "markdown": marked},
        "defaultConfiguration": {"level": "warning"},
        "properties": {"tags": ["gradient"]},
    }


# ---------------------------------------------------------------- results


def _results(verdict: Verdict, index: Mapping[str, int]) -> Iterator[dict[str, Json]]:
    for one in verdict.targets:
        for finding in one.diagnosis.findings:
            yield from _of_finding(one, finding, index, _state(verdict, "new"))
        for finding in one.known:
            yield from _of_finding(one, finding, index, _state(verdict, "unchanged"))
        for item in one.suppressed:
            reason: Json = {"kind": "external", "status": "accepted", "justification": item.reason}
            yield from _of_finding(one, item.finding, index, {**_state(verdict, "new"), "suppressions": [reason]})
        for gone in one.vanished:
            yield _absent(one, gone, index)


def _state(verdict: Verdict, state: str) -> dict[str, Json]:
    return {"baselineState": state} if verdict.baseline else {}


def _of_finding(
    one: Judged, finding: Finding, index: Mapping[str, int], more: Mapping[str, Json]
) -> Iterator[dict[str, Json]]:
    said = " ".join(filter(None, (finding.message, finding.cause, finding.remedy)))
    about = {
        key: value
        for key, value in finding.to_dict().items()
        if key not in ("code", "severity", "message", "sites", "module") and value is not None
    }
    for identity in one.identities(finding):
        result: dict[str, Json] = {
            "ruleId": finding.code,
            "ruleIndex": index[finding.code],
            "level": LEVELS[finding.severity],
            "message": {"text": f"{place(identity.module)} of {one.target}: {said}"},
            "locations": [_location(one, identity.module)],
            "partialFingerprints": {FINGERPRINT: identity.fingerprint},
            "properties": {"target": one.target, **about},
            **more,
        }
        related = list[Json](_related(one, finding, identity.module))
        yield {**result, "relatedLocations": related} if related else result


def _absent(one: Judged, gone: Identity, index: Mapping[str, int]) -> dict[str, Json]:
    return {
        "ruleId": gone.code,
        "ruleIndex": index[gone.code],
        "kind": "pass",
        "level": "none",
        "message": {"text": f"{place(gone.module)} of {gone.target}: what the baseline holds is not found any more."},
        "locations": [_location(one, gone.module)],
        "partialFingerprints": {FINGERPRINT: gone.fingerprint},
        "baselineState": "absent",
        "properties": {"target": gone.target},
    }


def _location(one: Judged, module: str) -> dict[str, Json]:
    found = place_of(module, one.places) or SETTINGS
    return {
        "physicalLocation": {"artifactLocation": _artifact(found), "region": {"startLine": found.line}},
        "logicalLocations": [
            {"name": place(module.rpartition(".")[2]), "fullyQualifiedName": place(module), "kind": "module"}
        ],
    }


def _artifact(found: Place) -> dict[str, Json]:
    """Relative to the root; of a file outside of it the whole address."""
    if found.file.startswith("/"):
        return {"uri": "file://" + quote(found.file)}
    if found.file[1:3] == ":/":  # a drive
        return {"uri": "file:///" + quote(found.file, safe="/:")}
    return {"uri": quote(found.file), "uriBaseId": ROOT}


def _related(one: Judged, finding: Finding, module: str) -> Iterator[dict[str, Json]]:
    """The root it follows from, what is sick in the same way, and where the evidence was measured."""
    told: dict[str, str] = {}
    if finding.caused_by is not None:
        told[finding.caused_by[0]] = f"it follows from {finding.caused_by[1]} here"
    for other in finding.modules:
        told.setdefault(other, f"{finding.pathology} here too")
    for site in finding.sites:
        told.setdefault(site.module, f"{_measured(site)} was measured here")
    told.pop(module, None)
    for number, (other, why) in enumerate(list(told.items())[:MOST_RELATED]):
        yield {"id": number, **_location(one, other), "message": {"text": f"{place(other)}: {why}"}}


def _measured(site: Site) -> str:
    return f"its {site.quantity.value.replace('_', ' ')}"


# ---------------------------------------------------------------- what could not be judged


def _notifications(verdict: Verdict, index: Mapping[str, int]) -> Iterator[dict[str, Json]]:
    codes = {str(getattr(rule, "name", "")): str(getattr(rule, "code", "")) for rule in plugins.load("rules")}
    for one in verdict.targets:
        if one.error:
            yield {"level": "error", "message": {"text": f"{one.target} could not be judged: {one.error}"}}
        for item in one.diagnosis.not_judged:
            said = f"{item.rule} could not judge {one.target}: {item.reason}"
            found: dict[str, Json] = {"level": "note", "message": {"text": said}}
            code = codes.get(item.rule, item.rule)
            if code in index:
                found["associatedRule"] = {"id": code, "index": index[code]}
            yield found
