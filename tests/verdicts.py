"""What the gate's formats are tested on: a verdict with all that there can be in one, and small ones."""

from examples import SYMPTOMS, diagnosis, finding

from gradscope.findings import Diagnosis, Role, Severity, Unjudged
from gradscope.records import Quantity, Site
from gradscope.sources import Place
from gradscope.verdict import Identity, Judged, Suppressed, Verdict

ODD = "blocks.a|b`c`<d>]]>\n\x00é%,:;&🦄"  # a module may be called anything that has no dot
RULES = ("GS101", "GS102", "GS301", "GS302", "GS501", "GS504")


def dead(**changes: object):
    """Dead units at encoder.act, or what `changes` make of them."""
    return finding(
        **{
            "code": "GS301",
            "pathology": "dead-units",
            "module": "encoder.act",
            "sites": (Site(module="encoder.act", module_type="ReLU", quantity=Quantity.OUTPUT, depth=2),),
            "measured": 1.0,
            "threshold": 0.75,
            "unit": "share of units",
            "message": "100% of the units of encoder.act are silent for every input since step 0.",
            "cause": "The share was 100% in the first recorded step.",
            "remedy": "Start with the biases of encoder.fc at zero or slightly above.",
            **changes,
        }
    )


UNJUDGED = Unjudged(rule="symmetric-init", reason="the trace holds no weight")
ENCODER = Judged(
    target="encoder",
    diagnosis=diagnosis(
        finding(),
        *SYMPTOMS,
        finding(
            code="GS501",
            pathology="update-too-small",
            severity=Severity.WARNING,
            module="encoder.fc",
            message="the weights of encoder.fc move by 1e-9 of their size",
            role=Role.SYMPTOM,
            caused_by=("encoder.act", "GS301"),
            cause="",
            remedy="",
        ),
        not_judged=[UNJUDGED],
    ),
    known=(finding(code="GS102", pathology="exploding-gradient", module="head"),),
    suppressed=(Suppressed(finding=dead(), reason="frozen, pruned on purpose"),),
    vanished=(Identity("encoder", "GS301", "old.act"),),
    rules=RULES,
    seeds=(0, 1),
    places={
        "": Place(file="acme/models.py", line=10),
        "layers": Place(file="acme/models.py", line=14),
        "encoder": Place(file="acme/parts/encoder.py", line=7),
        "encoder.act": Place(file="acme/parts/encoder.py", line=9),
    },
    duration_s=1.25,
)
WARNED = Judged(
    target="decoder",
    diagnosis=diagnosis(dead(severity=Severity.WARNING, module=ODD, message=f"half of {ODD} is silent")),
    rules=RULES,
    seeds=(0,),
    duration_s=0.5,
)
BROKEN = Judged(
    target="tagger",
    diagnosis=Diagnosis(findings=(), not_judged=(), steps=0, sites=0),
    rules=RULES,
    error="[[tool.gradscope.check]] tagger: model = 'acme.models:bild' names nothing; did you mean 'build'?",
)
HEALTHY_TARGET = Judged(target="baseline", diagnosis=diagnosis(), rules=RULES, seeds=(0,), duration_s=0.25)

EVERYTHING = Verdict(targets=(ENCODER, WARNED, BROKEN, HEALTHY_TARGET), baseline=True)
PASSED = Verdict(
    targets=tuple(
        Judged(target=f"model-{i}", diagnosis=diagnosis(not_judged=[UNJUDGED]), rules=RULES, seeds=(0,), duration_s=0.5)
        for i in range(10)
    )
)
NOTHING = Verdict(targets=())
MANY = Verdict(
    targets=(
        Judged(
            target="deep",
            diagnosis=diagnosis(*(finding(module=f"layers.{i}", message=f"layer {i}") for i in range(300))),
            rules=RULES,
        ),
    )
)
ALIKE = Verdict(
    targets=(
        Judged(
            target="wide",
            diagnosis=diagnosis(dead(module="a", alike=("a", "b", "c")), dead(module="d")),
            rules=RULES,
            places={"a": Place(file="m.py", line=1), "b": Place(file="m.py", line=2)},
        ),
    )
)
EXAMPLES = {"everything": EVERYTHING, "passed": PASSED, "nothing": NOTHING, "many": MANY, "alike": ALIKE}
