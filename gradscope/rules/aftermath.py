"""What became of the loss after a step."""

from dataclasses import dataclass

import numpy as np

from gradscope.trace import Doubles

_BEFORE = 5  # losses that tell where the run stood
_LATE = 0.1  # of the first loss: a run that has come lower is still said to stand here
_ABOVE = 1.2  # times the loss before: more than the usual noise
_END = 6  # the last sixth of the run tells how it ended
_LEAST = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Aftermath:
    """The losses that followed a step, against those before it.

    Attributes:
        before: The loss where the run stood, median of the last five.
        peak: Largest one since, in units of `before`; infinite if it is no finite number.
        above: Share of the steps since in which it was a fifth larger than `before`, or not finite.
        end: Median of the last sixth of the run, in units of `before`.
    """

    before: float
    peak: float
    above: float
    end: float


def aftermath(loss: Doubles, step: int) -> Aftermath | None:
    """What followed the step of index `step`, whose own loss was computed before it; None where that is not known."""
    earlier, since, known = loss[: step + 1], loss[step + 1 :], np.isfinite(loss)
    earlier = earlier[np.isfinite(earlier)]
    if not known[: np.max(np.flatnonzero(known), initial=0)].all():
        since = since[~np.isnan(since)]  # some come later: they were merely not recorded
    if not len(earlier) or not len(since):
        return None
    before = max(abs(float(np.median(earlier[-_BEFORE:]))), _LATE * abs(float(earlier[0])))
    if not before > 0:
        return None
    since = np.where(np.isfinite(since), since, np.inf)  # where it is no number, it has gone as far as it can
    tail = since[-max(_LEAST, len(loss) // _END) :]
    return Aftermath(
        before=before,
        peak=float(since.max()) / before,
        above=float((since > _ABOVE * before).mean()),
        end=float(np.median(tail)) / before,
    )
