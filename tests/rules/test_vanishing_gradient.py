import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.findings import Severity
from gradscope.rules.vanishing_gradient import VanishingGradient

NAN = np.nan
D = 12


def trace(norms, *, steps=20, **more):
    norms = np.asarray(norms, dtype=float)
    layers = norms.shape[-1]
    return trace_of(steps=steps, numel=400, weight_rms=np.full(layers, 0.2), output_grad_l2_norm=norms, **more)


def towards_input(gain, layers=D):
    return gain ** np.arange(layers)[::-1]


rng = np.random.default_rng(0)
BROKEN = {
    "sigmoid's bound": towards_input(0.25),
    "half per layer, the textbook's fifteen": towards_input(0.5, 15),
    "torch's default for ReLU": towards_input(0.41),
    "in the last half only": np.r_[np.full(6, 1e-4), towards_input(0.2, 6)],
    "Xavier before ReLU, thirty layers": towards_input(0.707, 30),
    "with noise": towards_input(0.25) * 10 ** rng.normal(0, 0.2, (20, D)),
    "zero at the input": np.r_[0, towards_input(0.1, 7)],
}
CLEAN = {
    "preserved": towards_input(1.0),
    "He-ReLU with noise": towards_input(1.0) * 10 ** rng.normal(0, 0.2, (20, D)),
    "Xavier-Tanh": towards_input(0.85),
    "a gentle loss over many layers": towards_input(0.83, 40),
    "three sigmoids": towards_input(0.14, 4),
    "BatchNorm grows": towards_input(1.21, 20),
    "one layer passes little": np.r_[np.full(6, 1e-5), np.ones(6)],
    "two towers": np.r_[np.full(5, 1e-4), np.full(5, 1.0)],
    "heals after two of twenty steps": np.where(np.arange(20)[:, None] < 2, towards_input(0.2), 1.0),
}


@pytest.mark.parametrize("norms", BROKEN.values(), ids=BROKEN)
def test_a_gradient_that_shrinks_layer_by_layer_is_found(norms):
    (finding,) = VanishingGradient().check(trace(norms))
    assert finding.measured >= finding.threshold
    assert finding.severity.reaches(Severity.WARNING)


@pytest.mark.parametrize("norms", CLEAN.values(), ids=CLEAN)
def test_what_keeps_its_gradient_is_clean(norms):
    assert list(VanishingGradient().check(trace(norms))) == []


@pytest.mark.parametrize("factor", [1e-12, 1e-6, 1e4])
def test_a_factor_on_the_loss_changes_nothing(factor):
    (plain,) = VanishingGradient().check(trace(towards_input(0.25)))
    (scaled,) = VanishingGradient().check(trace(factor * towards_input(0.25)))
    assert scaled.measured == pytest.approx(plain.measured, rel=1e-4)
    assert (scaled.severity, scaled.module) == (plain.severity, plain.module)


def test_it_names_the_earliest_layer_and_all_the_evidence():
    (finding,) = VanishingGradient().check(trace(towards_input(0.25)))
    assert finding.module == "0"
    assert len(finding.sites) == D
    assert (finding.first_step, finding.last_step) == (0, 19)
    assert "loses 6.6 decades between 11 and 0 over 12 layers, a factor of 0.25 per layer" in finding.message


@pytest.mark.parametrize(
    ("early", "severity"), [(1e-3, Severity.WARNING), (1e-8, Severity.ERROR)], ids=["Adam evens it out", "SGD starves"]
)
def test_severity_follows_what_the_early_layers_still_learn(early, severity):
    update = np.r_[np.full(D - 1, early), 1e-3]
    (finding,) = VanishingGradient().check(
        trace(towards_input(0.41), weight_l2_norm=np.ones(D), weight_update_l2_norm=update)
    )
    assert finding.severity is severity


def test_a_loss_that_healed_late_is_a_warning():
    values = np.where(np.arange(20)[:, None] < 8, towards_input(0.1), 1.0)
    (finding,) = VanishingGradient().check(trace(values))
    assert finding.severity is Severity.WARNING
    assert finding.last_step == 7


def test_the_cause_names_the_activations_and_what_they_pass_back():
    types = ["Linear", "Sigmoid"] * 6
    passed = 0.15 ** np.arange(6)[::-1]  # on to the sigmoids; each hands 0.15 of it to its layer
    grad = np.stack([0.15 * passed, passed], axis=1).ravel()
    given = np.stack([np.full(6, NAN), 0.15 * passed], axis=1).ravel()
    found = trace_of(
        types=types,
        numel=400,
        weight_rms=[0.2, NAN] * 6,
        output_grad_l2_norm=grad,
        input_grad_l2_norm=given,
    )
    (finding,) = VanishingGradient().check(found)
    assert "5 Sigmoids pass back 0.15 each (the slope of a Sigmoid is at most 0.25)" in finding.cause
    assert finding.remedy.startswith("Replace the Sigmoids by ReLU or GELU")


def test_three_layers_are_too_few_to_judge():
    with pytest.raises(NotJudged, match="4 layers with a weight, the trace has 3"):
        list(VanishingGradient().check(trace(towards_input(0.01, 3))))
