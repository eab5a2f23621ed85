"""Layers whose gain is no longer the baseline's."""

from collections.abc import Mapping, Sequence

from gradscope.baseline import Baseline
from gradscope.findings import Finding, Severity, Unjudged
from gradscope.gains import in_words, module_of
from gradscope.records import Quantity
from gradscope.rules.wording import count
from gradscope.trace import Trace
from gradscope.verdict import GAIN_DRIFT

_MOST_NAMED = 4


def drift(
    target: str, traces: Sequence[Trace], measured: Mapping[str, float], baseline: Baseline | None, max_drift: float
) -> Finding | Unjudged | None:
    """The layers whose gain differs from the baseline's by more than `max_drift` decades; None where there is none.

    Args:
        target: Whose profile it is.
        traces: Of the target.
        measured: Their `gains`.
        baseline: With the profile to be held against.
        max_drift: In decades.
    """
    profile = baseline.profiles.get(target) if baseline is not None else None
    if profile is None:
        why = f"the baseline holds no gradient profile of {target}; write it anew with `--write-baseline`"
        return Unjudged(rule=GAIN_DRIFT, reason=why if baseline is not None else "needs a baseline: `--baseline FILE`")
    both = profile.keys() & measured.keys()
    if not both:
        return Unjudged(rule=GAIN_DRIFT, reason=f"the baseline's gradient profile of {target} has none of its modules")
    moved = {name: measured[name] - profile[name] for name in measured if name in both}
    moved = {name: by for name, by in moved.items() if abs(by) > max_drift}
    return _finding(traces[0], measured, profile, moved, max_drift) if moved else None


def _finding(
    trace: Trace,
    measured: Mapping[str, float],
    profile: Mapping[str, float],
    moved: Mapping[str, float],
    max_drift: float,
) -> Finding:
    """All that drifts as one finding, named after the worst."""
    worst = max(moved, key=lambda name: abs(moved[name]))
    modules = {site.module for site in trace.sites}
    alike = tuple(sorted({module_of(name, modules) for name in moved}))
    return Finding(
        code=GAIN_DRIFT,
        pathology=GAIN_DRIFT,
        severity=Severity.ERROR,
        module=module_of(worst, modules),
        sites=tuple(s for s in trace.sites if s.module in alike and s.quantity is Quantity.OUTPUT_GRAD),
        first_step=int(trace.steps[0]),
        last_step=int(trace.steps[-1]),
        measured=abs(moved[worst]),
        threshold=max_drift,
        unit="decades",
        message=(
            f"The gradient is multiplied by {_factor(measured[worst])} on its way back through {in_words(worst)}, by"
            f" {_factor(profile[worst])} in the baseline: {abs(moved[worst]):.2f} decades"
            f" {'more' if moved[worst] > 0 else 'less'}, {max_drift:g} are allowed"
            f"{_likewise([in_words(name) for name in moved if name != worst])}."
        ),
        cause=f"{count(len(moved), 'module')} of {len(profile)} in the profile moved by more than that.",
        remedy="If the change is meant, write the baseline anew with `--write-baseline`.",
        alike=alike,
    )


def _likewise(others: Sequence[str]) -> str:
    if not others:
        return ""
    more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
    return f"; likewise {', '.join(others[:_MOST_NAMED])}{more}"


def _factor(decades: float) -> str:
    return f"{10**decades:.3g}" if abs(decades) < 300 else f"10^{decades:.0f}"
