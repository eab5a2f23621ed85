"""Roots and symptoms: which finding explains which.

A finding is a symptom if another one can explain it by the table below, began no later, and lies where its effect goes:
a lost gradient is missing upstream, a broken signal downstream. What costs nothing explains nothing that does. What is
left are the roots.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias

from gradscope.findings import Finding, Role, Severity
from gradscope.flow import flow_of
from gradscope.records import Quantity
from gradscope.rules.learning import has_optimizer, norms, trainable_parameters
from gradscope.trace import Trace


def relate(findings: Iterable[Finding], trace: Trace) -> tuple[Finding, ...]:
    """`findings` with their roles: the roots, the worst first, then the symptoms as the story goes.

    What follows from a root at once comes before what follows from that; the outcome comes last.
    """
    found = list(findings)
    passage = Passage(trace)
    parents: dict[int, int | None] = {}
    for index in range(len(found)):
        parents[index] = _parent(index, found, passage, parents)
    roots, symptoms = [], []
    for index, finding in enumerate(found):
        top, links = index, 0
        while (above := parents[top]) is not None:
            top, links = above, links + 1
        if top == index:
            roots.append(finding)
        else:
            root = found[top]
            symptom = replace(finding, role=Role.SYMPTOM, caused_by=(root.module, root.code))
            symptoms.append((links, symptom))
    roots.sort(key=lambda f: (-f.severity.rank, f.first_step, _place(f)))
    symptoms.sort(key=lambda item: (item[1].code in OUTCOMES, item[0], item[1].first_step, _place(item[1])))
    return (*roots, *(symptom for _, symptom in symptoms))


def _place(finding: Finding) -> tuple[int, str, str]:
    """Where it stands among those of the same step: what can be the cause first."""
    return ORDER.index(finding.code) if finding.code in ORDER else len(ORDER), finding.code, finding.module


class Passage:
    """Who lies before whom: by the graph of the forward pass, where the trace has it, else by depth."""

    def __init__(self, trace: Trace) -> None:
        self._flow = flow_of(trace)
        self._seen = frozenset(self._flow.modules) if self._flow is not None else frozenset()
        self._trace = trace
        self._after: dict[frozenset[str], frozenset[str]] = {}

    def leads(self, one: Finding, other: Finding) -> bool | None:
        """Whether something that `one` speaks of is, or comes before, something of `other`; None if that is unknown."""
        here, there = self._seen & self.modules(one), self._seen & self.modules(other)
        if not here or not there:
            return None
        return bool(there & (here | self._following(here)))

    def modules(self, finding: Finding) -> frozenset[str]:
        """All that it speaks of."""
        return frozenset(site.module for site in finding.sites)

    def has_way_around(self, modules: frozenset[str]) -> bool:
        """Whether something gets from the input to the output without any of them."""
        return self._flow is not None and modules.isdisjoint(self._flow.backbone)

    def start_at_zero(self, modules: frozenset[str]) -> bool:
        """Whether every weight of theirs is zero in the first record."""
        weights = [p for p in trainable_parameters(self._trace) if p.module in modules and p.is_weight]
        return bool(weights) and all(norms(self._trace, p.weight)[0] == 0 for p in weights)

    def are_left_out(self, modules: frozenset[str]) -> bool:
        """Whether no optimizer moves any weight of theirs."""
        weights = [p for p in trainable_parameters(self._trace) if p.module in modules and p.is_weight]
        return has_optimizer(self._trace) and all(p.update is None for p in weights)

    def _following(self, modules: frozenset[str]) -> frozenset[str]:
        assert self._flow is not None  # else no module is known
        if modules not in self._after:
            start = [vertex for module in modules for vertex in self._flow.returned(module)]
            self._after[modules] = frozenset(vertex.module for vertex in self._flow.descendants(start))
        return self._after[modules]


Guard: TypeAlias = Callable[[Finding, Finding, Passage], bool]


def _anywhere(cause: Finding, effect: Finding, passage: Passage) -> bool:
    return True


def _upstream(cause: Finding, effect: Finding, passage: Passage) -> bool:
    """Some of the effect's evidence lies at or before the cause's: a gradient that is lost there is missing before."""
    leads = passage.leads(effect, cause)
    return _shallowest(effect) <= _deepest(cause) if leads is None else leads


def _overlapping(cause: Finding, effect: Finding, passage: Passage) -> bool:
    """The two share layers, or nearly, on one path."""
    near = _shallowest(effect) <= _deepest(cause) + 2 and _deepest(effect) >= _shallowest(cause) - 2
    return near and (passage.leads(cause, effect) is not False or passage.leads(effect, cause) is not False)


def _across(cause: Finding, effect: Finding, passage: Passage) -> bool:
    """The effect stretches over the cause's place."""
    return _shallowest(effect) <= _deepest(cause) and _deepest(effect) >= _shallowest(cause)


def _ahead(cause: Finding, effect: Finding, passage: Passage) -> bool:
    """The cause lies before the effect in the forward pass: what it returns is what the effect is given."""
    return _deepest(cause) < _shallowest(effect) and passage.leads(cause, effect) is not False


def _behind(cause: Finding, effect: Finding, passage: Passage) -> bool:
    """The cause lies after the effect in the forward pass: what it passes back is what the effect gets."""
    return _shallowest(cause) > _deepest(effect) and passage.leads(effect, cause) is not False


def _elsewhere(cause: Finding, effect: Finding, passage: Passage) -> bool:
    return cause.module != effect.module


def _its_gates(cause: Finding, effect: Finding, passage: Passage) -> bool:
    """The cause is that the gates of that layer are stuck."""
    return _stuck_gates(cause) and cause.module == effect.module


def _not_chosen(cause: Finding, effect: Finding, passage: Passage) -> bool:
    """The cause is a softmax that chooses one of several: what is multiplied with the others gets nothing."""
    return _stuck_choice(cause)


def _same_module(cause: Finding, effect: Finding, passage: Passage) -> bool:
    return cause.module == effect.module


def _from_zeros(cause: Finding, effect: Finding, passage: Passage) -> bool:
    """Two weights or more are zero, gradients of zero are all that they get, and the model has a way around.

    So are two factors of an adapter that both start at zero, as each passes the other nothing; a whole net of zeros was
    merely drawn so, and one weight of zeros that gets nothing is kept from it by what it chooses among.
    """
    modules = passage.modules(effect)
    several = len({(site.module, site.name) for site in effect.sites}) > 1
    return (
        several
        and passage.start_at_zero(modules)
        and modules <= passage.modules(cause)
        and passage.has_way_around(modules)
    )


def _from_nobody(cause: Finding, effect: Finding, passage: Passage) -> bool:
    """All of the effect's weights are zero, and no optimizer holds them, of which the cause speaks."""
    modules = passage.modules(effect)
    return _is_left_out(cause) and passage.start_at_zero(modules) and passage.are_left_out(modules)


def _not_from_zeros(cause: Finding, effect: Finding, passage: Passage) -> bool:
    return not _from_zeros(effect, cause, passage)


def _earlier(cause: Finding, effect: Finding, passage: Passage) -> bool:
    """The cause began in an earlier step."""
    return cause.first_step < effect.first_step


# effect: (cause, guard), the likeliest cause first. A cause that begins in the same step must stand in `ORDER` before
# its effect.
EXPLAINED_BY: dict[str, tuple[tuple[str, Guard], ...]] = {
    "GS101": (
        ("GS504", _anywhere),
        ("GS307", _overlapping),
        ("GS304", _overlapping),
        ("GS201", _across),
        ("GS303", _upstream),
        ("GS301", _upstream),
        ("GS302", _upstream),
        ("GS302", _not_chosen),
        ("GS306", _upstream),
        ("GS402", _overlapping),
        ("GS502", _earlier),
    ),
    "GS102": (
        ("GS504", _anywhere),
        ("GS505", _anywhere),
        ("GS306", _overlapping),
        ("GS202", _upstream),
        ("GS305", _overlapping),
        ("GS502", _anywhere),
    ),
    "GS103": (
        ("GS504", _not_from_zeros),
        ("GS104", _anywhere),
        ("GS201", _same_module),
        ("GS401", _earlier),
        ("GS303", _upstream),
        ("GS307", _upstream),
        ("GS301", _upstream),
        ("GS302", _upstream),
        ("GS302", _not_chosen),
        ("GS306", _upstream),
        ("GS304", _upstream),
        ("GS402", _upstream),
        ("GS101", _upstream),
        ("GS502", _anywhere),
    ),
    "GS104": (
        ("GS402", _overlapping),
        ("GS302", _behind),
        ("GS301", _behind),
        ("GS303", _behind),
        ("GS401", _earlier),
        ("GS502", _earlier),
    ),
    "GS201": (("GS504", _anywhere), ("GS302", _its_gates), ("GS502", _earlier), ("GS202", _earlier)),
    "GS202": (("GS504", _anywhere), ("GS302", _its_gates), ("GS505", _earlier), ("GS502", _earlier)),
    "GS301": (
        ("GS504", _anywhere),
        ("GS505", _earlier),
        ("GS303", _ahead),
        ("GS307", _ahead),
        ("GS202", _anywhere),
        ("GS305", _anywhere),
        ("GS304", _anywhere),
        ("GS102", _anywhere),
        ("GS502", _anywhere),
        ("GS101", _overlapping),
        ("GS401", _anywhere),
    ),
    "GS302": (
        ("GS504", _anywhere),
        ("GS505", _earlier),
        ("GS202", _elsewhere),
        ("GS305", _anywhere),
        ("GS502", _anywhere),
    ),
    "GS303": (
        ("GS504", _anywhere),
        ("GS201", _overlapping),
        ("GS403", _overlapping),
        ("GS301", _overlapping),
        ("GS302", _overlapping),
        ("GS305", _overlapping),
        ("GS304", _overlapping),
        ("GS101", _overlapping),
        ("GS307", _ahead),
        ("GS502", _earlier),
        ("GS401", _earlier),
    ),
    "GS304": (
        ("GS504", _anywhere),
        ("GS307", _overlapping),
        ("GS201", _overlapping),
        ("GS301", _anywhere),
        ("GS303", _overlapping),
        ("GS502", _earlier),
    ),
    "GS305": (("GS504", _anywhere), ("GS505", _earlier), ("GS202", _overlapping), ("GS502", _earlier)),
    "GS306": (("GS504", _anywhere), ("GS305", _anywhere), ("GS502", _earlier)),
    "GS307": (
        ("GS504", _anywhere),
        ("GS201", _overlapping),
        ("GS303", _anywhere),
        ("GS304", _overlapping),
        ("GS301", _overlapping),
        ("GS302", _overlapping),
        ("GS502", _earlier),
    ),
    "GS401": (
        ("GS403", _anywhere),
        ("GS402", _anywhere),
        ("GS505", _earlier),
        ("GS202", _anywhere),
        ("GS305", _anywhere),
        ("GS102", _anywhere),
        ("GS502", _anywhere),
    ),
    "GS402": (("GS304", _anywhere), ("GS101", _upstream)),
    "GS403": (("GS502", _earlier), ("GS505", _earlier), ("GS202", _earlier)),
    "GS501": (
        ("GS504", _anywhere),
        ("GS104", _anywhere),
        ("GS304", _anywhere),
        ("GS201", _upstream),
        ("GS202", _anywhere),
        ("GS402", _anywhere),
        ("GS101", _anywhere),
        ("GS303", _upstream),
        ("GS301", _upstream),
        ("GS302", _upstream),
        ("GS302", _not_chosen),
        ("GS306", _upstream),
        ("GS503", _anywhere),
        ("GS502", _anywhere),
        ("GS401", _anywhere),
    ),
    "GS504": (("GS501", _from_nobody), ("GS103", _from_zeros)),
    "GS502": (("GS505", _anywhere), ("GS202", _anywhere), ("GS305", _anywhere), ("GS102", _anywhere)),
    "GS503": (
        ("GS505", _anywhere),
        ("GS202", _anywhere),
        ("GS305", _anywhere),
        ("GS102", _anywhere),
        ("GS502", _anywhere),
    ),
}

# What the loss does is the outcome of whatever else was found, be it begun before or after.
OUTCOMES = ("GS601", "GS602")

# Of two that begin in the same step, the one that can be the cause: how the model was built before what it does,
# forward before backward, backward before update, the outcome last.
ORDER = (
    "GS504", "GS505", "GS202", "GS305", "GS201", "GS403", "GS303", "GS307", "GS304", "GS306", "GS402", "GS102", "GS502",
    "GS301", "GS302", "GS104", "GS101", "GS103", "GS401", "GS503", "GS501", *OUTCOMES,
)  # fmt: skip


def _parent(at: int, found: list[Finding], passage: Passage, parents: Mapping[int, int | None]) -> int | None:
    """The likeliest cause of the finding at that index, unless that in turn is known to follow from it."""
    effect = found[at]
    if effect.code in OUTCOMES:
        return _worst(found)
    if _is_left_out(effect):
        return None
    for code, guard in EXPLAINED_BY.get(effect.code, ()):
        for index, cause in enumerate(found):
            costs = cause.severity is not Severity.INFO or effect.severity is Severity.INFO
            first = cause.code == code and costs and _comes_first(cause, effect)
            if first and guard(cause, effect, passage) and not _follows(index, at, parents):
                return index
    return None


def _is_left_out(finding: Finding) -> bool:
    """Whether it speaks of what no optimizer holds: so the loop was written, whatever else goes on."""
    return finding.code == "GS501" and all(site.quantity is Quantity.WEIGHT_GRAD for site in finding.sites)


def _follows(index: int | None, origin: int, parents: Mapping[int, int | None]) -> bool:
    """Whether `origin` is among what explains the finding at `index`, as far as that is known yet."""
    while index is not None and index != origin:
        index = parents.get(index)
    return index == origin


def _worst(found: list[Finding]) -> int | None:
    """The gravest finding that is no outcome itself, the first of them in time; None if nothing costs anything."""
    causes = [i for i, f in enumerate(found) if f.code not in OUTCOMES and f.severity is not Severity.INFO]
    return min(causes, key=lambda i: (-found[i].severity.rank, found[i].first_step), default=None)


def _comes_first(cause: Finding, effect: Finding) -> bool:
    if cause.code == "GS505" and effect.first_step <= cause.first_step <= 1:
        return effect.code != cause.code  # nothing can be left over in the first step: the loop was so from there on
    if effect.code == "GS504":  # what stays as it was drawn, of what never let it move
        return cause.first_step <= effect.first_step
    if cause.first_step != effect.first_step:
        return cause.first_step < effect.first_step
    if cause.code == "GS502" and (_stuck_choice(effect) or _shut_gates(effect)):
        return False  # it was stuck before that step was made
    if _leads_up_to(cause, effect) or _leads_up_to(effect, cause):
        return _leads_up_to(cause, effect)
    if cause.code == "GS301" and effect.code in ("GS303", "GS307"):  # what comes out of dead units is all the same
        return _shallowest(cause) <= _shallowest(effect)
    if {cause.code, effect.code} == {"GS303", "GS307"}:  # attention among equal rows is the same for every sample
        return (_shallowest(cause), cause.code) < (_shallowest(effect), effect.code)
    known = cause.code in ORDER and effect.code in ORDER
    return known and (_stuck_gates(cause) or _shut_gates(cause) or ORDER.index(cause.code) < ORDER.index(effect.code))


def _leads_up_to(slope: Finding, end: Finding) -> bool:
    """Whether the signal dies out layer by layer until, past a quarter of the way, samples are no longer told apart."""
    depths = sorted(site.depth for site in slope.sites)
    return slope.code == "GS304" and end.code in ("GS303", "GS307") and _shallowest(end) > depths[len(depths) // 4]


def _stuck_gates(finding: Finding) -> bool:
    """Whether it speaks of a recurrent layer whose gates are stuck: what goes through time goes through them."""
    return finding.code == "GS302" and any(site.quantity is Quantity.GATE for site in finding.sites)


def _shut_gates(finding: Finding) -> bool:
    """Whether it speaks of gates that keep the gradient from what they are multiplied with."""
    seen = {site.quantity for site in finding.sites}
    return finding.code == "GS302" and {Quantity.OUTPUT, Quantity.OUTPUT_GRAD} <= seen


def _stuck_choice(finding: Finding) -> bool:
    """Whether it speaks of a softmax that makes the same choice whatever is learned."""
    return finding.code == "GS302" and any(site.module_type == "Softmax" for site in finding.sites)


def _shallowest(finding: Finding) -> int:
    return min((s.depth for s in finding.sites if s.depth >= 0), default=0)


def _deepest(finding: Finding) -> int:
    return max((s.depth for s in finding.sites), default=0)
