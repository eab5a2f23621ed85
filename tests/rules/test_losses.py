import numpy as np
import pytest
from builders import trace_of

from gradscope.errors import NotJudged
from gradscope.records import Quantity
from gradscope.rules.losses import ends, has_fallen, loss_site


def test_the_ends_are_medians_of_what_is_finite():
    loss = np.r_[[5.0, np.nan, 3.0, 4.0], np.full(12, 9.0), [1.0, np.inf, 2.0, 7.0, 2.0]]
    run = ends(trace_of(steps=len(loss), output_rms=[1.0], loss=loss), least=5)
    assert len(run.values) == len(loss) - 2
    assert (run.first, run.spread) == (4.0, 2.0)
    assert (run.tail, run.last) == (3, 2.0)
    assert loss[run.rows].tolist() == run.values.tolist()


def test_too_few_losses_are_not_judged():
    loss = np.r_[np.full(5, 1.0), np.full(5, np.nan)]
    with pytest.raises(NotJudged, match="needs the loss of 6 steps, the trace has 5"):
        ends(trace_of(output_rms=[1.0], loss=loss), least=6)


def test_a_loss_that_no_site_holds_has_none():
    assert loss_site(trace_of(output_rms=[1.0], loss=1.0)) == ()
    assert [s.quantity for s in loss_site(trace_of(loss_rms=[1.0]))] == [Quantity.LOSS]


@pytest.mark.parametrize(
    ("loss", "fallen"),
    [(0.9 ** np.arange(20), True), (np.ones(20), False), (0.98 ** np.arange(20), False), (np.full(5, 0.1), False)],
)
def test_whether_it_has_fallen_by_half(loss, fallen):
    assert has_fallen(trace_of(steps=len(loss), output_rms=[1.0], loss=loss), to=0.5) is fallen
