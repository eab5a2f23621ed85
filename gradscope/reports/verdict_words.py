"""What every view of a verdict says in the same words: which findings lead, counts, what does not count, the end."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gradscope.findings import Diagnosis, Finding, Role, Severity
from gradscope.sources import Place, place_of, places
from gradscope.trace import Trace
from gradscope.verdict import Identity, Judged, Verdict

MOST_PLACES = 4  # that one line names
PASSED, FAILED, BROKEN = "passed", "failed", "broken"
SETTINGS = Place(file="pyproject.toml", line=1)  # in place of a line that is not known, for those who need one


@dataclass(frozen=True, slots=True)
class Shown:
    """A finding that leads, and those that are folded under it.

    Attributes:
        finding: A root; or a symptom whose root does not count, the first of its kind.
        folded: The root's symptoms; or the other symptoms of that kind.
        follows: Of such a symptom: what it follows from, and why that is not shown.
        written: ``acme/models.py:12``, where that is known.
    """

    finding: Finding
    folded: tuple[Finding, ...]
    follows: str = ""
    written: str = ""


def verdict_of(trace: Trace, diagnosis: Diagnosis) -> Verdict:
    """A trace that is judged by itself, as a verdict on one target."""
    name = trace.meta.get("model")
    about = Judged(target=str(name or "trace"), diagnosis=diagnosis, places=places(trace.meta))
    return Verdict(targets=(about,))


def shown(one: Judged) -> Iterator[Shown]:
    """The findings of a target as they are shown, the roots first."""
    for finding, folded in heads(one.diagnosis):
        follows = "" if finding.role is Role.ROOT else _follows(one, finding.caused_by)
        yield Shown(finding, folded, follows, written(one, finding.module))


def heads(diagnosis: Diagnosis) -> Iterator[tuple[Finding, tuple[Finding, ...]]]:
    """The findings that lead, each with those that are folded under it.

    A symptom whose root does not count leads too, with the others of its kind that follow from that root.
    """
    for root in diagnosis.roots:
        yield root, diagnosis.symptoms_of(root)
    known = {(root.module, root.code) for root in diagnosis.roots}
    alone: dict[tuple[tuple[str, str] | None, str], list[Finding]] = {}
    for finding in diagnosis.findings:
        if finding.role is Role.SYMPTOM and finding.caused_by not in known:
            alone.setdefault((finding.caused_by, finding.code), []).append(finding)
    for first, *others in alone.values():
        yield first, tuple(others)


def from_root(cause: tuple[str, str] | None) -> str:
    """``follows from GS301 at encoder.act``."""
    return f"follows from {cause[1]} at {place(cause[0])}" if cause is not None else ""


def _follows(one: Judged, cause: tuple[str, str] | None) -> str:
    if cause is None:
        return ""
    root = from_root(cause)
    for item in one.suppressed:
        if (item.finding.module, item.finding.code) == cause:
            return f"{root}, which is suppressed: {item.reason}"
    if any((known.module, known.code) == cause for known in one.known):
        return f"{root}, which the baseline holds"
    return root


def written(one: Judged, module: str) -> str:
    """``acme/models.py:12``; "" where that is not known."""
    found = place_of(module, one.places)
    return f"{found.file}:{found.line}" if found else ""


def place(module: str) -> str:
    """The module's name; the model has none."""
    return module or "(model)"


def outcome(one: Judged, fail_on: Severity | None) -> str:
    """How a target stands: `PASSED`, `FAILED` or `BROKEN`."""
    if one.error:
        return BROKEN
    return FAILED if one.failing(fail_on) else PASSED


def counted(number: int, word: str) -> str:
    """``2 errors``, ``1 error``."""
    return f"{number} {word}{'s' if number != 1 else ''}"


def severities(findings: Iterable[Finding]) -> str:
    """``2 errors, 1 warning``."""
    of = Counter(finding.severity for finding in findings)
    words = {Severity.INFO: "note"}
    return ", ".join(counted(of[s], words.get(s, s.value)) for s in reversed(Severity) if of[s])


def leading(findings: Sequence[Finding]) -> list[Finding]:
    """Those of `findings` that follow from none of them, as they are shown: a root and its ten symptoms are one."""
    among = {(finding.module, finding.code) for finding in findings}
    alone: dict[tuple[tuple[str, str] | None, str], Finding] = {}
    for finding in findings:
        if finding.role is Role.SYMPTOM and finding.caused_by not in among:
            alone.setdefault((finding.caused_by, finding.code), finding)
    return [finding for finding in findings if finding.role is Role.ROOT or finding in alone.values()]


def standing(one: Judged, fail_on: Severity | None) -> str:
    """``failed: 1 error, 2 warnings``: how a target stands, and what counts there."""
    return ": ".join(filter(None, [outcome(one, fail_on), severities(leading(one.diagnosis.findings))]))


def particulars(one: Judged) -> str:
    """``20 steps, 2 seeds, 1.2 s, 3 known``."""
    if one.error:
        return ""
    parts = [counted(one.diagnosis.steps, "step")]
    parts += [counted(len(one.seeds), "seed")] if one.seeds else []
    parts += [duration(one.duration_s)] if one.duration_s else []
    parts += [f"{n} known"] if (n := len(known(one))) else []
    parts += [f"{n} suppressed"] if (n := len(suppressed(one))) else []
    return ", ".join(parts)


def known(one: Judged) -> list[Identity]:
    """What the baseline holds of what was found, each module for itself, as the baseline counts."""
    return [identity for finding in one.known for identity in one.identities(finding)]


def suppressed(one: Judged) -> list[Identity]:
    """What was suppressed, counted likewise."""
    return [identity for item in one.suppressed for identity in one.identities(item.finding)]


def duration(seconds: float) -> str:
    """``0.8 s``, ``74 s``."""
    return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"


def notes(verdict: Verdict) -> Iterator[str]:
    """What does not count, a line each: known findings, suppressed ones with the reason, those that have vanished."""
    held = [identity for one in verdict.targets for identity in known(one)]
    if held:
        yield f"{_findings(held)} known to the baseline: {_named(held, verdict)}"
    by_reason: dict[str, list[Identity]] = {}
    for one in verdict.targets:
        for item in one.suppressed:
            by_reason.setdefault(item.reason, []).extend(one.identities(item.finding))
    for reason, aside in by_reason.items():
        yield f"{_findings(aside)} suppressed ({reason}): {_named(aside, verdict)}"
    if sentence := gone(verdict):
        yield sentence


def gone(verdict: Verdict, *, option: str = "--write-baseline") -> str:
    """What of the baseline has vanished, and the `option` by which it shrinks; "" for nothing."""
    vanished = [identity for one in verdict.targets for identity in one.vanished]
    if not vanished:
        return ""
    were = f"{counted(len(vanished), 'finding')} of the baseline {'is' if len(vanished) == 1 else 'are'} gone"
    return f"{were} ({_named(vanished, verdict)}); {option} lets it shrink"


def _findings(items: Sequence[Identity]) -> str:
    return f"{counted(len(items), 'finding')} {'is' if len(items) == 1 else 'are'}"


def _named(items: Sequence[Identity], verdict: Verdict) -> str:
    """``GS301 act (encoder), GS101 fc and 3 more``; the target is named where there are several."""
    several = len(verdict.targets) > 1
    words = [f"{i.code} {place(i.module)}" + (f" ({i.target})" if several else "") for i in items[:MOST_PLACES]]
    more = f" and {len(items) - MOST_PLACES} more" if len(items) > MOST_PLACES else ""
    return ", ".join(words) + more


def last_line(verdict: Verdict) -> str:
    """``passed: 3 targets``, ``failed: 2 errors in 1 of 3 targets; 1 could not be judged``."""
    if not verdict.targets:
        return "nothing was judged"
    everything = counted(len(verdict.targets), "target")
    if verdict.ok:
        below = [f for one in verdict.targets for f in leading(one.diagnosis.findings)]
        limit = "never" if verdict.fail_on is None else verdict.fail_on.value
        return f"passed: {everything}" + (f", with {severities(below)} (fail-on: {limit})" if below else "")
    failing = [bad for one in verdict.targets if (bad := one.failing(verdict.fail_on))]
    broken = sum(bool(one.error) for one in verdict.targets)
    several = len(verdict.targets) > 1
    parts = []
    if failing:
        found = severities(finding for bad in failing for finding in leading(bad))
        parts.append(f"{found} in {len(failing)} of {everything}" if several else found)
    if broken:
        of_all = f"of {everything} " if several and not failing else ""
        parts.append(f"{broken} {of_all}could not be judged" if several else "it could not be judged")
    return f"failed: {'; '.join(parts)}"


def not_judged(verdict: Verdict) -> list[tuple[str, str]]:
    """Rules that lacked data and what they lacked; with the targets where it is not so in all."""
    judged = [one for one in verdict.targets if not one.error]
    targets: dict[tuple[str, str], list[str]] = {}
    for one in judged:
        for item in one.diagnosis.not_judged:
            targets.setdefault((item.rule, item.reason), []).append(one.target)
    found = []
    for (rule, reason), names in targets.items():
        more = f" and {len(names) - MOST_PLACES} more" if len(names) > MOST_PLACES else ""
        where = "" if len(names) == len(judged) else f" ({', '.join(names[:MOST_PLACES])}{more})"
        found.append((f"{rule}{where}", reason))
    return found
