"""What a rule is: it reads a trace and yields findings. It prints nothing, and it does not know torch."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from inspect import getdoc
from typing import ClassVar

from gradscope.findings import Finding
from gradscope.records import Quantity
from gradscope.trace import Trace


class Rule(ABC):
    """One pathology. The docstring of a rule is what `gradscope rule CODE` prints; its thresholds are typed fields.

    Attributes:
        code: "GS101".
        name: The pathology, "vanishing-gradient".
        reads: Quantities without which the rule cannot judge; where the trace has no site of one of them, the engine
            reports the rule as not judged.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    reads: ClassVar[frozenset[Quantity]]

    @abstractmethod
    def check(self, trace: Trace) -> Iterator[Finding]:
        """The findings in `trace`.

        Raises:
            NotJudged: There is too little data; the text says what is missing.
        """

    def concerns(self, trace: Trace) -> bool:
        """Whether the model has anything that the rule is about. Where it has not, there is nothing left unjudged.

        Raises:
            NotJudged: That cannot be told; the text says why.
        """
        return True

    @classmethod
    def explanation(cls) -> str:
        """The docstring, dedented."""
        return getdoc(cls) or ""
