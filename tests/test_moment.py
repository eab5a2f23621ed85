import numpy as np
import pytest
from builders import trace_of

from gradscope.moment import Moment
from gradscope.rules.engine import diagnose
from gradscope.tail import Standing

TRACE = trace_of(output_rms=np.ones(3))


@pytest.mark.parametrize(
    ("standing", "judged", "over", "settled"),
    [
        (Standing.WRITTEN, 10, False, False),
        (Standing.ENDED, 8, True, False),
        (Standing.ENDED, 10, True, True),
        (Standing.KILLED, 10, True, True),
        (Standing.ABSENT, 0, False, False),
    ],
)
def test_it_is_settled_when_all_that_was_written_is_judged(standing, judged, over, settled) -> None:
    moment = Moment(
        path="run.h5", standing=standing, run=1, recorded=10, trace=TRACE,
        diagnosis=diagnose(TRACE, ()), judged=judged, rate=1.0, silent_s=0.0,
    )  # fmt: skip
    assert (moment.is_over, moment.is_settled) == (over, settled)
