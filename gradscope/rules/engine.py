"""From a trace and rules to a diagnosis: runs every rule, then tells roots from symptoms."""

from collections.abc import Iterable

import numpy as np

from gradscope import plugins
from gradscope.budget import budget_of
from gradscope.errors import NotJudged, PluginError, UsageError
from gradscope.findings import Diagnosis, Finding, Unjudged
from gradscope.records import ORDINARY_EVENTS
from gradscope.rules.base import Rule
from gradscope.rules.relations import relate
from gradscope.trace import Trace


def diagnose(trace: Trace, rules: Iterable[Rule] | None = None) -> Diagnosis:
    """What `rules` find in `trace`; by default all that are installed, with their default thresholds.

    A rule that fails with an unexpected error is reported as not judged, with the error: one broken rule must not hide
    what the others see.

    Raises:
        UsageError: One of `rules` is none.
    """
    findings: list[Finding] = []
    # what happened to the recording limits every rule: it stands first among what is not judged
    limits = [event.message for event in trace.events if event.kind not in ORDINARY_EVENTS]
    not_judged = [Unjudged(rule="recording", reason=message) for message in limits]
    for rule in default_rules() if rules is None else given_rules(rules):
        try:
            # a run that explodes holds infinities; what is made of them is NaN, which counts as not known
            with np.errstate(all="ignore"):
                findings.extend(_check(rule, trace))
        except NotJudged as reason:
            not_judged.append(Unjudged(rule=rule.name, reason=str(reason)))
        except Exception as error:
            not_judged.append(Unjudged(rule=rule.name, reason=f"the rule failed: {error!r}"))
    budget = None
    try:
        with np.errstate(all="ignore"):
            budget = budget_of(trace)
    except Exception as error:
        not_judged.append(Unjudged(rule="budget", reason=f"it could not be drawn up: {error!r}"))
    return Diagnosis(
        findings=relate(findings, trace),
        not_judged=tuple(not_judged),
        steps=len(trace.steps),
        sites=len(trace.sites),
        budget=budget,
    )


def default_rules() -> tuple[Rule, ...]:
    """All installed rules with their default thresholds."""
    rules = plugins.load("rules")
    strange = next((rule for rule in rules if not (isinstance(rule, type) and issubclass(rule, Rule))), None)
    if strange is not None:
        raise PluginError(f"{strange!r}, offered in the group gradscope.rules, is no subclass of gradscope.Rule.")
    return tuple(rule() for rule in rules if isinstance(rule, type) and issubclass(rule, Rule))


def given_rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """What a caller gives as `rules=`.

    Raises:
        UsageError: One is a rule's class or its name, which would judge nothing and so find nothing.
    """
    found = tuple(rules)
    for one in found:
        if isinstance(one, type) and issubclass(one, Rule):
            raise UsageError(f"`rules=`: {one.__name__} is the class of a rule; give the rule, `{one.__name__}()`.")
        if not isinstance(one, Rule):
            raise UsageError(f"`rules=`: {one!r} is no Rule; give instances, such as `DeadUnits()`.")
    return found


def _check(rule: Rule, trace: Trace) -> list[Finding]:
    if not len(trace.steps):
        raise NotJudged("no step was recorded")
    if not rule.concerns(trace):
        return []
    held = {site.quantity for site in trace.sites}
    missing = sorted(q.value for q in rule.reads - held)
    if missing:
        raise NotJudged(f"the trace holds no {' and no '.join(missing)}")
    found = list(rule.check(trace))
    strange = next((item for item in found if not isinstance(item, Finding)), None)
    if strange is not None:
        raise TypeError(f"it yields {strange!r}, which is no Finding")
    return found
