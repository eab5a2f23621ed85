"""What went wrong in the user's own code, told as if gradscope had not been in between: when, where, and as it is.

with during("the forward pass of step 0"):
    outputs = model(inputs)                      # what it raises passes through, with a note
...
except Exception as error:
    traceback.print_exception(without_ours(error))
    say(told(error))  # the forward pass of step 0 failed at acme/models.py:31: RuntimeError: mat1 and mat2 …
"""

import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from gradscope.errors import GradscopeError

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_NOTE = "gradscope: in "
_LIBRARIES = tuple({sysconfig.get_paths()[kind] + os.sep for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@contextmanager
def during(stage: str) -> Iterator[None]:
    """Notes on what the user's code raises inside that it was in `stage`; the innermost stage counts."""
    try:
        yield
    except GradscopeError:
        raise
    except Exception as error:
        if not stage_of(error):
            error.add_note(f"{_NOTE}{stage}")
        raise


def stage_of(error: BaseException) -> str:
    """What gradscope was about when the user's code raised `error`; "" where that is not known."""
    notes = (note for note in getattr(error, "__notes__", ()) if isinstance(note, str) and note.startswith(_NOTE))
    return next(notes, _NOTE).removeprefix(_NOTE)


def told(error: BaseException) -> str:
    """In what stage, where and what, as one sentence."""
    first_line = next(iter(str(error).strip().splitlines()), "")
    what = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    place = place_of(error)
    stage = stage_of(error)
    return f"{stage} failed{f' at {place}' if place else ''}: {what}" if stage else f"{place}: {what}".lstrip(": ")


def place_of(error: BaseException) -> str:
    """The innermost line of the user's that `error` came through, "acme/models.py:31"; "" if there is none."""
    if isinstance(error, SyntaxError) and error.filename and of_the_user(error.filename):
        return f"{_seen_from_here(error.filename)}:{error.lineno}"
    lines = [(t.tb_frame.f_code.co_filename, t.tb_lineno) for t in _frames(error.__traceback__) if not _is_ours(t)]
    users = [line for line in lines if of_the_user(line[0])]
    # a package that is installed may be the user's as well
    installed = [line for line in lines if any(folder in line[0] for folder in _INSTALLED)]
    others = [line for line in installed if f"{os.sep}torch{os.sep}" not in line[0]]
    file, line = (users or others or [("", 0)])[-1]
    return f"{_seen_from_here(file)}:{line}" if file else ""


def of_the_user(file: str) -> bool:
    """Whether a source file is none of Python's, of an installed library's or of gradscope's."""
    path = os.path.abspath(file)
    known = path.startswith((*_LIBRARIES, _OURS)) or any(folder in path for folder in _INSTALLED)
    return not known and not file.startswith("<")


def without_ours(error: BaseException) -> BaseException:
    """Takes gradscope's frames out of the tracebacks of `error` and of what led to it; returns it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = _of_others(one.__traceback__)
        waiting += [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]
    return error


def _of_others(traceback: TracebackType | None) -> TracebackType | None:
    kept = [frame for frame in _frames(traceback) if not _is_ours(frame)]
    following = None
    for frame in reversed(kept):
        frame.tb_next = following
        following = frame
    return following


def _frames(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _is_ours(traceback: TracebackType) -> bool:
    """By the name of the module too: in a checkout probes/ and scenarios/ lie beside this folder."""
    frame: FrameType = traceback.tb_frame
    module = frame.f_globals.get("__name__", "")
    return frame.f_code.co_filename.startswith(_OURS) or str(module).startswith("gradscope.")


def _seen_from_here(file: str) -> str:
    """`file` relative to the current folder, where it lies in it."""
    path = os.path.abspath(file)
    try:
        here = os.path.join(os.getcwd(), "")
    except FileNotFoundError:
        here = os.path.join(sys.prefix, "")
    return path.removeprefix(here).replace(os.sep, "/")
