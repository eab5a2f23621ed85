"""The diagnosis as JSON, schema "gradscope/diagnosis/1"."""

import json
from dataclasses import dataclass
from pathlib import Path

from gradscope.findings import Diagnosis
from gradscope.reports.base import Destination, write_text
from gradscope.trace import Trace


@dataclass(frozen=True, slots=True)
class JsonFile:
    """The diagnosis for a program; always valid JSON, NaN and infinities are strings."""

    name: str = "json"
    suffix: str = ".json"
    about: str = "the diagnosis for a program"
    to_stream: bool = True

    def write(self, trace: Trace, diagnosis: Diagnosis, destination: Destination) -> tuple[Path, ...]:
        """Writes one indented document."""
        document = json.dumps(diagnosis.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        return write_text(document + "\n", destination, "diagnosis.json")
