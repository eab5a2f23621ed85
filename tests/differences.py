"""Two runs that differ in everything that a difference can show. Nothing is random."""

import numpy as np
from builders import joined, trace_of
from examples import finding

from gradscope.difference import Difference, Recorded, difference
from gradscope.findings import Diagnosis, Finding, Role, Severity
from gradscope.trace import Trace

STEPS = 20
ODD = "</script><img src=x onerror=alert(1)>"


def trace(modules: list[str], types: list[str], gains: list[float], dead: float, update: float) -> Trace:
    """A chain with those gains; `dead` is of the activation, `update` of the first layer."""
    ones = np.ones((STEPS, len(modules)))
    activation = [dead if module.endswith("act") else np.nan for module in modules]
    through = trace_of(
        modules=modules,
        types=types,
        output_grad_l2_norm=ones,
        output_grad_rms=ones * np.cumprod(gains[::-1])[::-1],
        input_grad_l2_norm=ones * gains,
        output_rms=ones,
        output_dead_fraction=ones * activation,
        meta={"model": "Net", "every": 1, "shapes": {f"{modules[0]}.weight": [512, 4]}},
    )
    weights = trace_of(modules=modules[:1], weight_l2_norm=ones[:, :1], weight_update_l2_norm=update * ones[:, :1])
    return joined(through, weights)


def recorded(name: str, of: Trace, *findings: Finding) -> Recorded:
    """With a diagnosis of these findings."""
    return Recorded(name, of, Diagnosis(findings=findings, not_judged=(), steps=STEPS, sites=len(of.sites)))


def everything(odd: str = "extra") -> Difference:
    """One of each: appeared with a symptom, vanished, moved, milder, all three measures, a prefix, modules of one."""
    modules, types = ["stem", "act", "fc", "old", "head"], ["Linear", "ReLU", "Linear", "Linear", "Linear"]
    a = trace(modules, types, [1.0, 1.0, 0.5, 1.0, 1.0], 0.1, 1e-3)
    names = ["net.stem", "net.act", "net.fc", "net.head", odd]
    b = trace(names, ["Linear", "ReLU", "Conv1d", "Linear", "Linear"], [1.0, 1.0, 0.05, 1.0, 1.0], 0.9, 0.0)
    dead = {"code": "GS301", "pathology": "dead-units", "message": "90% of the units of net.act are silent."}
    late = {"code": "GS302", "pathology": "saturation"}
    milder = {"code": "GS501", "pathology": "update-too-small"}
    return difference(
        recorded(
            "main.h5",
            a,
            finding(module="old"),
            finding(module="fc", first_step=0, **late),
            finding(module="stem", severity=Severity.ERROR, **milder),
        ),
        recorded(
            "branch.h5",
            b,
            finding(module="net.act", **dead),
            finding(
                module=odd, code="GS103", pathology="no-gradient", role=Role.SYMPTOM, caused_by=("net.act", "GS301")
            ),
            finding(module="net.head", first_step=12, **late),
            finding(module="net.stem", severity=Severity.WARNING, **milder),
        ),
    )


def nothing() -> Difference:
    """A run and itself."""
    of = trace(["stem", "act", "head"], ["Linear", "ReLU", "Linear"], [1.0, 1.0, 1.0], 0.1, 1e-3)
    return difference(recorded("main.h5", of), recorded("again.h5", of))
