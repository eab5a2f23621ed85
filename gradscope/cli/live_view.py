"""The live view that `gradscope attach --live` starts: of its own trace, on stderr, in a process of its own.

Another process reads the trace, so the script shares neither its processor time nor its terminal's keys with the view.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

_ENDS_WITHIN_S: Final = 15.0  # for the last look and the last judgement


class LiveView:
    """A view of the trace that will be written to `path`; what lies there now does not count."""

    def __init__(self, path: Path) -> None:
        inode = path.stat().st_ino if path.exists() else 0
        words = ["live", str(path), "--until-end", "--attached", f"{os.getpid()}:{inode}"]
        if os.isatty(1) and os.isatty(2):
            words.append("--lines")  # the script writes between them: a frame would be torn
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gradscope", *words],
            stdin=subprocess.DEVNULL,
            stdout=2,
            start_new_session=True,  # ctrl-c is the script's
        )

    def close(self, *, is_written: bool) -> None:
        """Waits for its last words; where nothing was written there are none."""
        if not is_written:
            self._process.terminate()
        try:
            self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()


class TemporaryTrace:
    """A place for a trace that only the view needs."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="gradscope-"))
        self.path = self._folder / "run.h5"

    def remove(self) -> None:
        """Removes it with all that was written beside it."""
        shutil.rmtree(self._folder, ignore_errors=True)
