"""The gate's judgement of one target: rules → findings → those that count.

    traces of one target, a seed each ─ rules ─→ diagnoses ─ merged ─→ suppressed | known | what counts → Judged

Nothing is trained here and nothing is printed: `trial` makes the traces, the reports show the verdict.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from gradscope.baseline import Baseline
from gradscope.config import Suppression
from gradscope.drift import drift
from gradscope.errors import TraceError
from gradscope.findings import Diagnosis, Finding, Role, Unjudged
from gradscope.gains import gains
from gradscope.rules.base import Rule
from gradscope.rules.engine import diagnose
from gradscope.selectors import reach
from gradscope.sources import places
from gradscope.trace import Trace
from gradscope.verdict import Identity, Judged, Suppressed


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """By what a target is judged.

    Attributes:
        rules: That are asked.
        suppress: Findings that are accepted, with the reason.
        baseline: What is known; None for nothing.
        max_drift: Decades by which a gain may differ from the baseline's; None: it is not compared.
    """

    rules: tuple[Rule, ...]
    suppress: tuple[Suppression, ...] = ()
    baseline: Baseline | None = None
    max_drift: float | None = None


def judge(
    target: str, traces: Sequence[Trace], policy: Policy, *, seeds: Sequence[int] = (), duration_s: float = 0.0
) -> Judged:
    """What `policy` makes of the traces of one target, one for each of its seeds.

    Raises:
        TraceError: In one of them nothing was recorded: that is not healthy, it is not known.
    """
    for trace in traces:
        if not len(trace.steps) or not trace.sites:
            raise TraceError(
                f"{target}: no {'site' if len(trace.steps) else 'step'} was recorded; does the training reach"
                " `backward` and `optimizer.step()`?"
            )
    diagnosis = merged([diagnose(trace, policy.rules) for trace in traces], seeds)
    measured = gains(traces)
    if policy.max_drift is not None:
        diagnosis = _with_drift(diagnosis, drift(target, traces, measured, policy.baseline, policy.max_drift))
    judged = Judged(
        target=target,
        diagnosis=diagnosis,
        rules=tuple(rule.code for rule in policy.rules),
        seeds=tuple(seeds),
        places=places(traces[0].meta),
        gains=measured,
        duration_s=duration_s,
    )
    return sorted_out(judged, policy)


def _with_drift(diagnosis: Diagnosis, found: Finding | Unjudged | None) -> Diagnosis:
    if isinstance(found, Finding):
        return replace(diagnosis, findings=(found, *diagnosis.findings))
    if isinstance(found, Unjudged):
        return replace(diagnosis, not_judged=(*diagnosis.not_judged, found))
    return diagnosis


# ---------------------------------------------------------------- several seeds


def merged(diagnoses: Sequence[Diagnosis], seeds: Sequence[int] = ()) -> Diagnosis:
    """One diagnosis of several trainings of a model: a finding is told once, by the training that shows it worst.

    A rule counts as not judged if no training let it judge.
    """
    if len(diagnoses) == 1:
        return diagnoses[0]
    labels = list(seeds) or list(range(len(diagnoses)))
    seen: dict[tuple[str, str], list[tuple[int, Finding]]] = {}
    for seed, diagnosis in zip(labels, diagnoses, strict=True):
        for finding in diagnosis.findings:
            seen.setdefault((finding.code, finding.module), []).append((seed, finding))
    findings = [_worst(found, len(labels)) for found in seen.values()]
    return Diagnosis(
        findings=tuple(sorted(findings, key=lambda f: (f.role.value, -f.severity.rank, f.first_step, f.code))),
        not_judged=_judged_by_none(diagnoses),
        steps=sum(one.steps for one in diagnoses),
        sites=max(one.sites for one in diagnoses),
    )


def _worst(found: Sequence[tuple[int, Finding]], trainings: int) -> Finding:
    finding = max((f for _, f in found), key=lambda f: (f.severity.rank, f.role is Role.ROOT))
    alike = tuple(dict.fromkeys(module for _, f in found for module in f.alike))
    shown = ", ".join(str(seed) for seed, _ in found)
    which = f"seed{'s' if len(found) > 1 else ''} {shown} ({len(found)} of {trainings})"
    return replace(finding, alike=alike, message=f"{finding.message} Seen with {which}.")


def _judged_by_none(diagnoses: Sequence[Diagnosis]) -> tuple[Unjudged, ...]:
    every = dict.fromkeys(item for one in diagnoses for item in one.not_judged)
    unjudged = [{item.rule for item in one.not_judged} for one in diagnoses]
    return tuple(item for item in every if item.rule == "recording" or all(item.rule in names for names in unjudged))


# ---------------------------------------------------------------- what counts


def sorted_out(judged: Judged, policy: Policy) -> Judged:
    """`judged`, whose diagnosis has all that was found, with what is suppressed or known taken out of it."""
    baseline = policy.baseline.of(judged.target) if policy.baseline is not None else frozenset()
    counting, known, suppressed = [], [], []
    roots = {(f.module, f.code): f for f in judged.diagnosis.findings if f.role is Role.ROOT}
    for finding in judged.diagnosis.findings:
        reasons = _reasons(judged.target, finding, roots, policy.suppress)
        counts = [one for one in judged.identities(finding) if one.module not in reasons]
        if not counts:
            suppressed.append(Suppressed(finding=finding, reason="; ".join(dict.fromkeys(reasons.values()))))
        elif baseline.issuperset(counts):
            known.append(finding)
        else:
            counting.append(finding)
    there = {identity for finding in judged.diagnosis.findings for identity in judged.identities(finding)}
    return replace(
        judged,
        diagnosis=replace(judged.diagnosis, findings=tuple(counting)),
        known=tuple(known),
        suppressed=tuple(suppressed),
        vanished=tuple(sorted(_vanished(baseline - there, judged, policy.rules))),
    )


def _reasons(
    target: str, finding: Finding, roots: Mapping[tuple[str, str], Finding], suppress: Iterable[Suppression]
) -> dict[str, str]:
    """Those of the finding's modules in which it is accepted, each with the reason of the first entry that says so.

    An entry accepts what its rule finds in the modules that it names, and what follows from that in these modules.
    """
    root = roots.get(finding.caused_by) if finding.caused_by is not None else None
    reasons: dict[str, str] = {}
    for entry in suppress:
        by_root = root is not None and _names(entry.rule, root) and all(_covers(entry, m) for m in root.modules)
        if fnmatchcase(target, entry.target) and (by_root or _names(entry.rule, finding)):
            for module in finding.modules:
                if _covers(entry, module):
                    reasons.setdefault(module, entry.reason)
    return reasons


def _covers(entry: Suppression, module: str) -> bool:
    return fnmatchcase(module, entry.module)


def _names(rule: str, finding: Finding) -> bool:
    return reach(rule, finding.code, finding.pathology) is not None


def _vanished(gone: Iterable[Identity], judged: Judged, rules: Sequence[Rule]) -> list[Identity]:
    """What is no longer found though its rule has looked: what could not be judged is not gone."""
    unjudged = {item.rule for item in judged.diagnosis.not_judged}
    looked = {rule.code for rule in rules if rule.name not in unjudged}
    return [identity for identity in gone if identity.code in looked]
