import numpy as np
import pytest
from builders import trace_of

from gradscope.findings import Severity
from gradscope.links import End, Link, Links, Side
from gradscope.rules.saturation import Saturation
from gradscope.rules.shut_gates import shut_gates

NAN = np.nan
MODULES = ["lift", "gate", "sigmoid", "transform", "tanh", "out"]
TYPES = ["Linear", "Linear", "Sigmoid", "Linear", "Tanh", "Linear"]
PRODUCT = ("MulBackward0", "AddBackward0")


def highway(high, *, low=0.0, passed=None, through=PRODUCT, kind="Sigmoid", steps=20):
    """A highway layer whose gate lies between `low` and `high`; `passed` is the gradient of what it multiplies."""
    links = Links()
    for one, other, by in [
        ("lift", "gate", ()),
        ("gate", "sigmoid", ()),
        ("lift", "transform", ()),
        ("transform", "tanh", ()),
        ("sigmoid", "out", through),
        ("tanh", "out", through),
        ("lift", "out", through),
    ]:
        links.add(Link(End(one, Side.RETURNED), End(other, Side.GIVEN), by), 0, 0)

    def over(value):
        return np.broadcast_to(np.asarray(value, dtype=float), (steps,))

    def rows(gate, others):
        made = np.tile(np.asarray(others, dtype=float), (steps, 1))
        made[:, 2] = over(gate)
        return made

    highest = over(high)
    given = rows(0.01, [0.01, 1e-9, 0, 1e-9, NAN, 0.02])
    given[:, 4] = over(0.01 * highest if passed is None else passed)
    nothing = [NAN] * 6
    return trace_of(
        steps=steps,
        modules=MODULES,
        types=[*TYPES[:2], kind, *TYPES[3:]],
        weight_rms=[0.3, 0.3, NAN, 0.3, NAN, 0.3],
        output_rms=rows(highest, [1.0, 16.0, 0, 1.0, 1.0, 1.0]),
        output_mean=rows(highest, [0.0, -16.0, 0, 0.0, 0.0, 0.0]),
        output_min=rows(low, nothing),
        output_max=rows(highest, nothing),
        output_saturated_fraction=rows(1.0, nothing),
        output_grad_rms=given,
        output_grad_l2_norm=given,
        input_grad_l2_norm=[NAN, 1.0, 1e-9, 1.0, 1e-9, 1.0],
        meta={"flow": links.to_list()},
    )


BROKEN = {
    "at zero": (highway(1e-7), 1e-7, Severity.ERROR),
    "nearly": (highway(1e-4), 1e-4, Severity.WARNING),
    "exactly zero": (highway(0.0, kind="Hardsigmoid"), 0.0, Severity.ERROR),
    "at one, for what is multiplied with the rest": (highway(1.0, low=1 - 2**-23, passed=1e-9), 1.2e-7, Severity.ERROR),
    "it opens far too slowly": (highway(np.geomspace(1e-9, 5e-9, 20)), 2e-9, Severity.ERROR),
}
CLEAN = {
    "a bias of −4": highway(1.8e-2),
    "open for some unit": highway(1.0),
    "open, for the one that counts": highway(1.0, low=1 - 1e-6, passed=0.01),
    "shut by what was learned": highway(np.geomspace(0.3, 1e-6, 20)),
    "it opens": highway(np.geomspace(1e-5, 9e-4, 20)),
    "no gate": highway(1e-7, through=("AddBackward0",)),
    "the other is reached by another path": highway(1e-7, passed=0.01),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_gate_that_is_shut_from_the_start_is_found(name):
    given, opening, severity = BROKEN[name]
    (finding,) = Saturation().check(given)
    assert (finding.module, finding.severity) == ("sigmoid", severity)
    assert finding.measured == pytest.approx(opening, rel=0.2)
    assert [site.module for site in finding.sites] == ["sigmoid", "tanh"]
    assert "What tanh returns is multiplied with it" in finding.cause
    assert "gate gives it values with a mean of -16 at step 0" in finding.cause


@pytest.mark.parametrize("name", CLEAN)
def test_a_gate_that_is_open_for_something_or_opens_is_clean(name):
    assert list(shut_gates(CLEAN[name])) == []
    assert list(Saturation().check(CLEAN[name])) == []


def test_without_a_graph_nothing_is_known_of_gates():
    assert list(shut_gates(trace_of(types=TYPES, output_min=[0.0] * 6, output_max=[1e-9] * 6))) == []
