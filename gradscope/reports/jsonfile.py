"""A diagnosis, or a verdict, as JSON, schema "gradscope/diagnosis/1"."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gradscope.findings import DIAGNOSIS_SCHEMA, Diagnosis, Finding, Json, finite
from gradscope.reports.base import Destination, write_text
from gradscope.sources import place_of
from gradscope.trace import Trace
from gradscope.verdict import Identity, Judged, Verdict


@dataclass(frozen=True, slots=True)
class JsonFile:
    """The diagnosis for a program; always valid JSON, NaN and infinities are strings."""

    name: str = "json"
    suffix: str = ".json"
    about: str = "the diagnosis for a program"
    to_stream: bool = True

    def write(self, trace: Trace, diagnosis: Diagnosis, destination: Destination) -> tuple[Path, ...]:
        """Writes one indented document."""
        return write_text(as_json(diagnosis.to_dict()), destination, "diagnosis.json")

    def write_verdict(self, verdict: Verdict, destination: Destination) -> tuple[Path, ...]:
        """The same for what the gate has judged: the diagnosis of all targets, and what does not count."""
        return write_text(as_json(_verdict(verdict)), destination, "verdict.json")


def as_json(document: Json) -> str:
    """An indented document that every reader takes."""
    return json.dumps(finite(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _verdict(verdict: Verdict) -> dict[str, Json]:
    """A superset of a diagnosis: who reads one reads the other."""
    targets = verdict.targets
    return {
        "schema": DIAGNOSIS_SCHEMA,
        "ok": verdict.ok,
        "fail_on": None if verdict.fail_on is None else verdict.fail_on.value,
        "findings": [_finding(one, finding) for one in targets for finding in one.diagnosis.findings],
        "not_judged": [
            {"rule": item.rule, "reason": item.reason, "target": one.target}
            for one in targets
            for item in one.diagnosis.not_judged
        ],
        "steps": sum(one.diagnosis.steps for one in targets),
        "sites": sum(one.diagnosis.sites for one in targets),
        "known": [_finding(one, finding) for one in targets for finding in one.known],
        "suppressed": [
            {**_finding(one, item.finding), "reason": item.reason} for one in targets for item in one.suppressed
        ],
        "vanished": [
            {"target": gone.target, "rule": gone.code, "module": gone.module, "fingerprint": gone.fingerprint}
            for one in targets
            for gone in one.vanished
        ],
        "targets": [_target(one, verdict) for one in targets],
    }


def _finding(one: Judged, finding: Finding) -> Mapping[str, Json]:
    """The finding with what it is recognised by, in each module that it speaks of, and where its own is written."""
    own = Identity(one.target, finding.code, finding.module)
    every: Json = {identity.module: identity.fingerprint for identity in one.identities(finding)}
    found = place_of(finding.module, one.places)
    place: Json = {"file": found.file, "line": found.line} if found is not None else None
    about: dict[str, Json] = {"target": one.target, "fingerprint": own.fingerprint, "modules": every, "place": place}
    return {**finding.to_dict(), **about}


def _target(one: Judged, verdict: Verdict) -> Mapping[str, Json]:
    return {
        "name": one.target,
        "ok": not one.error and not one.failing(verdict.fail_on),
        "error": one.error or None,
        "seeds": list(one.seeds),
        "steps": one.diagnosis.steps,
        "sites": one.diagnosis.sites,
        "duration_s": one.duration_s,
    }
