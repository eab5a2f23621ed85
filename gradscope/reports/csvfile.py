"""The recorded numbers as CSV, a row for each observed site of each step: what `Trace.to_frame` gives."""

from dataclasses import dataclass
from pathlib import Path

from gradscope.findings import Diagnosis
from gradscope.reports.base import Destination, write_text
from gradscope.trace import Trace


@dataclass(frozen=True, slots=True)
class CsvFile:
    """The numbers for a spreadsheet; seven digits, an empty `time` where a row is over the whole step."""

    name: str = "csv"
    suffix: str = ".csv"
    about: str = "every recorded number, a row for each site and step"
    to_stream: bool = True

    def write(self, trace: Trace, diagnosis: Diagnosis, destination: Destination) -> tuple[Path, ...]:
        """Writes the frame with its header; a statistic that was not observed is empty."""
        return write_text(
            trace.to_frame().to_csv(index=False, lineterminator="\n", float_format="%.7g"), destination, "frame.csv"
        )
