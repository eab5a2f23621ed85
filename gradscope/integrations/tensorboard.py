"""TensorBoard: scalars under `gradscope/`, findings and outstanding sites as text.

    writer = SummaryWriter("runs/first")
    with gradscope.attach(model, optimizer=optimizer) as scope:
        gradscope.integrations.tensorboard.follow(scope, writer)
        ...                                                  # the training loop, unchanged

Any writer with torch's `add_scalar` and `add_text` will do; nothing of TensorBoard is imported here.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from gradscope.findings import Diagnosis
from gradscope.integrations import tracking
from gradscope.integrations.selection import Extreme
from gradscope.integrations.tables import counts, extremes_text, findings_text
from gradscope.trace import Trace


class Writer(Protocol):
    """`torch.utils.tensorboard.SummaryWriter`, and others like it."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """One point of a chart."""
        ...

    def add_text(self, tag: str, text_string: str, global_step: int) -> object:
        """Markdown."""
        ...

    def flush(self) -> object:
        """To the disk."""
        ...


def log(recording: tracking.Recording | Trace, writer: Writer) -> Diagnosis:
    """Writes a finished recording, a scope's or one that was read; returns what was found in it."""
    return tracking.log_recording(recording, _TensorBoard(writer))


def follow(scope: tracking.Recording, writer: Writer) -> None:
    """Writes each step as it is recorded, and the findings as they change; until the scope is detached."""
    tracking.follow(scope, _TensorBoard(writer))


class _TensorBoard:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"gradscope/{name}", value, step)

    def findings(self, step: int, diagnosis: Diagnosis, extremes: Sequence[Extreme]) -> None:
        self.numbers(step, counts(diagnosis))
        self._writer.add_text("gradscope/findings", findings_text(diagnosis), step)
        self._writer.add_text("gradscope/extremes", extremes_text(extremes), step)

    def flush(self) -> None:
        self._writer.flush()
