"""A verdict as JUnit XML: a suite for each target, a case for each rule that was asked."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from gradscope import plugins
from gradscope.findings import Finding
from gradscope.reports.base import Destination, VerdictReport, write_text
from gradscope.reports.gate_text import as_text
from gradscope.reports.verdict_words import (
    Shown,
    counted,
    from_root,
    known,
    place,
    shown,
    suppressed,
    written,
)
from gradscope.sources import place_of
from gradscope.verdict import Judged, Verdict

# all that XML 1.0 cannot hold, not even escaped
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class JUnit(VerdictReport):
    """What reaches `--fail-on` is a failure, a rule that could not judge is skipped, a broken target an error."""

    name: str = "junit"
    suffix: str = ".xml"
    about: str = "JUnit XML, a test for each rule"
    to_stream: bool = True

    def write_verdict(self, verdict: Verdict, destination: Destination) -> tuple[Path, ...]:
        """Writes one document."""
        root = ET.Element("testsuites", name="gradscope")
        names = {getattr(rule, "code", ""): getattr(rule, "name", "") for rule in plugins.load("rules")}
        for one in verdict.targets:
            root.append(_suite(one, verdict, names))
        _count(root, list(root.iter("testcase")), sum(one.duration_s for one in verdict.targets))
        ET.indent(root)
        text = ET.tostring(root, encoding="unicode")
        return write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n', destination, "gradscope.xml")


def _suite(one: Judged, verdict: Verdict, names: dict[str, str]) -> ET.Element:
    suite = ET.Element("testsuite", name=_clean(one.target))
    properties = ET.SubElement(suite, "properties")
    for name, value in (
        ("steps", one.diagnosis.steps),
        ("sites", one.diagnosis.sites),
        ("seeds", " ".join(map(str, one.seeds))),
        ("fail-on", "never" if verdict.fail_on is None else verdict.fail_on.value),
        ("known", len(known(one))),
        ("suppressed", len(suppressed(one))),
        ("vanished", len(one.vanished)),
    ):
        ET.SubElement(properties, "property", name=name, value=str(value))
    cases = [_broken(one)] if one.error else list(_cases(one, verdict, names))
    suite.extend(cases)
    _count(suite, cases, one.duration_s)
    return suite


def _count(element: ET.Element, cases: Sequence[ET.Element], seconds: float) -> None:
    element.set("tests", str(len(cases)))
    for tag, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        element.set(name, str(sum(case.find(tag) is not None for case in cases)))
    element.set("time", f"{seconds:.3f}")


def _broken(one: Judged) -> ET.Element:
    case = ET.Element("testcase", name="could be judged", classname=_clean(one.target), time="0.000")
    ET.SubElement(case, "error", message=_clean(one.error), type="NotJudged").text = _clean(one.error)
    return case


def _cases(one: Judged, verdict: Verdict, names: dict[str, str]) -> Iterator[ET.Element]:
    """The rules that were asked, and whatever else has found something or could not judge."""
    pathologies = {code: names.get(code, "") for code in one.rules}
    pathologies |= {finding.code: finding.pathology for finding in one.diagnosis.findings}
    unjudged: dict[str, list[str]] = {}
    for item in one.diagnosis.not_judged:
        unjudged.setdefault(item.rule, []).append(item.reason)
    failing = {id(finding) for finding in one.failing(verdict.fail_on)}
    for code, pathology in pathologies.items():
        found = [finding for finding in one.diagnosis.findings if finding.code == code]
        yield _case(one, code, pathology, found, failing, unjudged.pop(pathology, []))
    for rule, reasons in unjudged.items():
        yield _case(one, "", rule, [], failing, reasons)


def _case(
    one: Judged, code: str, pathology: str, found: Sequence[Finding], failing: set[int], reasons: Sequence[str]
) -> ET.Element:
    name = pathology if pathology == code else f"{code} {pathology}".strip()
    case = ET.Element("testcase", name=_clean(name), classname=_clean(one.target), time="0.000")
    bad = [finding for finding in found if id(finding) in failing]
    if bad:
        first = bad[0]
        if at := place_of(first.module, one.places):
            case.set("file", _clean(at.file))
            case.set("line", str(at.line))
        more = f" (and {counted(len(bad) - 1, 'more finding')})" if len(bad) > 1 else ""
        message = _clean(f"{place(first.module)}: {first.message}{more}")
        ET.SubElement(case, "failure", message=message, type=code).text = _text(one, bad)
    elif reasons:
        ET.SubElement(case, "skipped", message=_clean("; ".join(reasons)), type="NotJudged")
    aside = [_text(one, mild)] if (mild := [f for f in found if id(f) not in failing]) else []
    aside += [f"known to the baseline: {place(f.module)}\n" for f in one.known if f.code == code]
    aside += [
        f"suppressed ({item.reason}): {place(item.finding.module)}\n"
        for item in one.suppressed
        if item.finding.code == code
    ]
    if aside:
        ET.SubElement(case, "system-out").text = _clean("\n".join(aside))
    return case


def _text(one: Judged, findings: Sequence[Finding]) -> str:
    """As the terminal shows them: a root with what follows from it, symptoms of a root together."""
    told = {id(item.finding): item for item in shown(one)}
    parts: list[Shown] = []
    of_root: dict[tuple[str, str], list[Finding]] = {}
    here = {(finding.module, finding.code) for finding in findings}
    for finding in findings:
        if (item := told.get(id(finding))) is not None:
            parts.append(item)
        elif finding.caused_by is not None and finding.caused_by not in here:
            of_root.setdefault(finding.caused_by, []).append(finding)
    for cause, group in of_root.items():
        parts.append(Shown(group[0], tuple(group[1:]), from_root(cause), written(one, group[0].module)))
    return _clean("\n".join(as_text(item) for item in parts))


def _clean(text: str) -> str:
    """`text` without what no XML can hold."""
    return _ILLEGAL.sub(lambda found: ascii(found[0])[1:-1], text)
