"""The figures as a report. Matplotlib is imported only when one is written: a list of the reports must stay fast."""

from dataclasses import dataclass
from pathlib import Path

from gradscope.errors import UsageError
from gradscope.findings import Diagnosis
from gradscope.reports.base import Destination
from gradscope.trace import Trace


@dataclass(frozen=True, slots=True)
class Images:
    """Figures as files of one kind, "png" or "svg"."""

    name: str
    about: str
    to_stream: bool = False

    @property
    def suffix(self) -> str:
        """The name with a dot."""
        return f".{self.name}"

    def write(self, trace: Trace, diagnosis: Diagnosis, destination: Destination) -> tuple[Path, ...]:
        """Writes all figures into a folder, made if missing; or the first of them into a file that has the suffix.

        Raises:
            UsageError: The destination is a stream, or one file is wanted and the trace has nothing to draw.
        """
        from gradscope.reports.figures import figures_of, save, save_figures

        if not isinstance(destination, Path):
            raise UsageError(f"`--format {self.name}` writes files; say where: `-o FOLDER` or `-o FILE{self.suffix}`.")
        if destination.is_dir() or destination.suffix != self.suffix:
            return tuple(save_figures(trace, destination, self.suffix))
        figures = figures_of(trace)
        try:
            _, figure = next(figures)
        except StopIteration:
            raise UsageError(f"the trace holds no gradient and no loss to draw in {str(destination)!r}.") from None
        save(figure, destination)
        return (destination,)
