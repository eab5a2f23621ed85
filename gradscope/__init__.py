"""gradscope finds the layer, the step and the moment of the sequence at which a gradient goes wrong.

    scope = gradscope.attach(model, optimizer=optimizer)
    ...                                   # the training loop, unchanged
    print(scope.diagnose())

Names are loaded on first use: `gradscope --help`, and reading a trace, never import torch.
Under `gradscope attach -m pytest` this module is there before pytest could rewrite its asserts: PYTEST_DONT_REWRITE.
"""

import os
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradscope.errors import GradscopeError as GradscopeError
    from gradscope.errors import NotJudged as NotJudged
    from gradscope.findings import Diagnosis as Diagnosis
    from gradscope.findings import Finding as Finding
    from gradscope.findings import Severity as Severity
    from gradscope.health import UnhealthyModel as UnhealthyModel
    from gradscope.health import assert_healthy as assert_healthy
    from gradscope.health import check as check
    from gradscope.records import Quantity as Quantity
    from gradscope.records import Site as Site
    from gradscope.records import Statistic as Statistic
    from gradscope.recurrence import Recurrence as Recurrence
    from gradscope.recurrence import recurrences as recurrences
    from gradscope.rules.base import Rule as Rule
    from gradscope.rules.engine import diagnose as diagnose
    from gradscope.scope import Scope as Scope
    from gradscope.scope import attach as attach
    from gradscope.storage import read_trace as read_trace
    from gradscope.trace import Trace as Trace

# In a checkout probes/ and scenarios/ lie beside this folder; an installation has them inside of it. So `python -m
# gradscope` works in the checkout too, where Python finds this folder before the installed one.
if not os.path.isdir(os.path.join(os.path.dirname(__file__), "probes")):
    __path__.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

_HOME = {
    "GradscopeError": "errors",
    "NotJudged": "errors",
    "Diagnosis": "findings",
    "Finding": "findings",
    "Severity": "findings",
    "UnhealthyModel": "health",
    "assert_healthy": "health",
    "check": "health",
    "Quantity": "records",
    "Site": "records",
    "Statistic": "records",
    "Recurrence": "recurrence",
    "recurrences": "recurrence",
    "Rule": "rules.base",
    "diagnose": "rules.engine",
    "Scope": "scope",
    "attach": "scope",
    "read_trace": "storage",
    "Trace": "trace",
}

__all__ = [*_HOME, "__version__"]
__version__ = version("gradscope")


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'gradscope' has no attribute {name!r}")
    return getattr(import_module(f"gradscope.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
