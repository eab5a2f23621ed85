"""Grids of numbers as a page carries them: 16 bits for each, three digits of which are exact.

A page of a thousand layers must stay small, and yet zero, NaN or infinite, and never observed must stay what they are.
So a number is written as its logarithm in 65,533 even steps between the grid's least and its largest (over 76 decades
a step is 0.27 %), and three codes are kept for what has no logarithm. `page/codes.js` reads them again.
"""

import base64
import zlib
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradscope.findings import Json
from gradscope.trace import Doubles

UNSEEN: Final = 0
ZERO: Final = 1
NONFINITE: Final = 2
LEAST: Final = 3  # the code of the least number
_MOST = 65535


def encoded(values: Doubles, nonfinite: NDArray[np.bool_], seen: NDArray[np.bool_]) -> dict[str, Json]:
    """`values` ≥ 0 of any shape as a JSON document; `nonfinite` and `seen`, of the same shape, go before the value.

    A value that is seen and yet NaN counts as not observed: its statistic is not known there.
    """
    positive = seen & ~nonfinite & np.isfinite(values) & (values > 0)
    logs = np.log10(values, where=positive, out=np.zeros(values.shape))
    low, high = (float(logs[positive].min()), float(logs[positive].max())) if positive.any() else (0.0, 0.0)
    step = (high - low) / (_MOST - LEAST)
    codes = np.full(values.shape, UNSEEN, dtype="<u2")
    codes[seen & ~nonfinite & (values == 0)] = ZERO
    codes[positive] = LEAST if step == 0 else LEAST + np.rint((logs[positive] - low) / step).astype("<u2")
    codes[seen & (nonfinite | np.isinf(values))] = NONFINITE
    return {
        "shape": list(values.shape),
        "low": low,
        "step": step,
        "codes": base64.b64encode(zlib.compress(codes.tobytes(), 6)).decode("ascii"),
    }
