import numpy as np
import pytest
from builders import trace_of

from gradscope.findings import Severity
from gradscope.rules.forward_variance_explosion import ForwardVarianceExplosion
from gradscope.rules.inflated import growth_by_others

STEPS = np.arange(40)
LATE = np.maximum(STEPS - 20, 0)


def found_in(weights, *, updates=0.01, outputs=None, scale=1.0):
    """Three square layers of 400 weights, whose norms over the steps are `scale` times those that keep the spread."""
    weights = np.stack(np.broadcast_arrays(*weights), axis=1) * np.sqrt(20.0) * scale
    outputs = weights if outputs is None else np.stack(np.broadcast_arrays(*outputs), axis=1)
    found = trace_of(
        numel=400,
        weight_l2_norm=weights,
        weight_rms=weights / 20,
        weight_grad_l2_norm=np.ones(3),
        weight_update_l2_norm=np.broadcast_to(updates, weights.shape),
        output_rms=outputs,
        output_std=outputs,
    )
    return list(ForwardVarianceExplosion()._by_others(found))


ONE = np.ones(40)
LITTLE = 1.08**LATE
BROKEN = {
    "one layer": ("1", {"weights": [ONE, 1.3**LATE, ONE]}),
    "all by little": ("0", {"weights": [LITTLE] * 3, "outputs": [LITTLE, LITTLE**2, LITTLE**3]}),
    "at once": ("2", {"weights": [ONE, ONE, np.where(LATE, 1000.0, 1.0)]}),
}


@pytest.mark.parametrize(("module", "given"), BROKEN.values(), ids=BROKEN)
def test_weights_that_grow_between_the_steps_are_found(module, given):
    (finding,) = found_in(**given)
    assert (finding.module, finding.first_step) == (module, 20)
    assert finding.measured >= finding.threshold
    assert finding.severity is (Severity.ERROR if finding.measured >= 2 else Severity.WARNING)
    assert "the optimizer's updates cannot have done" in finding.cause


CLEAN = {
    "by the optimizer": {"weights": [ONE, 1.3**LATE, ONE], "updates": (1.3**LATE)[:, None] * 2},
    "by less than a decade": {"weights": [ONE, np.where(LATE, 5.0, 1.0), ONE]},
    "from far too small": {"weights": [ONE, np.where(LATE, 1000.0, 1.0), ONE], "scale": 1e-3},
    "given and taken in turn": {"weights": [ONE, np.where(STEPS % 2, 100.0, 1.0), ONE]},
    "outputs that stay": {"weights": [ONE, 1.3**LATE, ONE], "outputs": [ONE, ONE, ONE]},
    "a spike": {"weights": [ONE, np.where((STEPS > 20) & (STEPS < 24), 1000.0, 1.0), ONE]},
    "made smaller": {"weights": [ONE, 0.8**LATE, ONE]},
}


@pytest.mark.parametrize("given", CLEAN.values(), ids=CLEAN)
def test_what_the_optimizer_makes_or_what_comes_to_nothing_is_clean(given):
    assert found_in(**given) == []


def test_growth_is_what_no_update_can_have_done():
    weight = np.array([1.0, 2.0, 4.0, 1.0, 8.0, 8.0])
    update = np.array([0.0, 2.0, 0.0, 0.0, np.nan, 0.0])
    steps = np.array([0, 1, 2, 3, 5, 6])
    # 1 to 2 may be the second update, 2 to 4 too; 4 to 1 and 1 to 8 are nobody's, and 8 is unknown from there on
    np.testing.assert_allclose(10 ** growth_by_others(weight, update, steps), [1, 1, 1, 0.25, 0.25, 0.25], rtol=1e-6)
    free = growth_by_others(weight, np.zeros(6), steps)
    np.testing.assert_allclose(10**free, weight)


def test_weights_that_are_unknown_or_zero_have_no_growth():
    assert np.isnan(growth_by_others(np.array([0.0, np.nan]), np.zeros(2), np.arange(2))).all()
