"""What of a model is computed, or kept, in 16-bit floats, and what such a float can hold."""

from collections.abc import Mapping

import numpy as np

from gradscope.errors import NotJudged
from gradscope.records import Site, Statistic
from gradscope.trace import Trace

LARGEST = 65504.0  # of float16; bfloat16 reaches as far as float32
SMALLEST = 2.0**-24  # above zero in float16, which is also the spacing of its numbers below 2^-14
_BITS = {"float16": 11, "bfloat16": 8}  # of the mantissa, the hidden one included


def dtype_of(trace: Trace, name: str) -> str:
    """What a module returns, or a parameter of that full name is kept in: "float16"; "" where nobody has noted it.

    What is float32 is not noted, nor is anything in traces of before.
    """
    known = trace.meta.get("dtypes")
    found = known.get(name, "") if isinstance(known, Mapping) else ""
    return found if isinstance(found, str) else ""


def is_half(trace: Trace, name: str) -> bool:
    """Whether that is float16, which has a narrow range."""
    return dtype_of(trace, name) == "float16"


def full_name(parameter: Site) -> str:
    """Of the parameter that a site is about: "encoder.fc.weight"."""
    return f"{parameter.module}.{parameter.name}".lstrip(".")


def spacing(dtype: str) -> float | None:
    """Distance of neighbouring numbers of a 16-bit float, relative to 1; None for others."""
    return 2.0 ** (1 - _BITS[dtype]) if dtype in _BITS else None


def require_dtypes(trace: Trace) -> None:
    """Raises `NotJudged` where something has 16 bits, and the trace is from before it was noted what is of which."""
    if "dtypes" not in trace.meta and not np.isnan(trace.statistics[Statistic.UNDERFLOW_FRACTION]).all():
        raise NotJudged("needs to know what is computed in float16 and what in bfloat16; this trace does not tell")


def holds_half(trace: Trace) -> bool:
    """Whether anything of the model is float16."""
    known = trace.meta.get("dtypes")
    return isinstance(known, Mapping) and "float16" in known.values()
