"""From a trace and rules to a diagnosis: runs every rule, then tells roots from symptoms."""

from collections.abc import Iterable

from gradscope import plugins
from gradscope.errors import NotJudged
from gradscope.findings import Diagnosis, Finding, Unjudged
from gradscope.rules.base import Rule
from gradscope.rules.relations import relate
from gradscope.trace import Trace


def diagnose(trace: Trace, rules: Iterable[Rule] | None = None) -> Diagnosis:
    """What `rules` find in `trace`; by default all that are installed, with their default thresholds.

    A rule that fails with an unexpected error is reported as not judged, with the error: one broken rule must not hide
    what the others see.
    """
    findings: list[Finding] = []
    not_judged: list[Unjudged] = []
    for rule in default_rules() if rules is None else rules:
        try:
            findings.extend(_check(rule, trace))
        except NotJudged as reason:
            not_judged.append(Unjudged(rule=rule.name, reason=str(reason)))
        except Exception as error:
            not_judged.append(Unjudged(rule=rule.name, reason=f"the rule failed: {error!r}"))
    return Diagnosis(
        findings=relate(findings, trace), not_judged=tuple(not_judged), steps=len(trace.steps), sites=len(trace.sites)
    )


def default_rules() -> tuple[Rule, ...]:
    """All installed rules with their default thresholds."""
    return tuple(rule() for rule in plugins.load("rules"))  # type: ignore[operator]


def _check(rule: Rule, trace: Trace) -> list[Finding]:
    if not len(trace.steps):
        raise NotJudged("no step was recorded")
    held = {site.quantity for site in trace.sites}
    missing = sorted(q.value for q in rule.reads - held)
    if missing:
        raise NotJudged(f"the trace holds no {' and no '.join(missing)}")
    return list(rule.check(trace))
