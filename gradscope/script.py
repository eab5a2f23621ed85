"""A user's script as `__main__`, as if Python had been called with it and not with gradscope.

What a script can see of how it was started is what Python itself would have set: `__main__` and its attributes,
`sys.argv`, `sys.path[0]`; classes of `__main__` can be pickled, and processes that are spawned find the script again.
What a person can see is the same too: an error's traceback begins in the script, an exit code is the script's.

The process belongs to the script from here on: nothing is put back.
"""

import atexit
import functools
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import NoReturn, ParamSpec

from gradscope.errors import UsageError
from gradscope.tracebacks import without_ours

_Arguments = ParamSpec("_Arguments")
_ALWAYS_LOADED = frozenset(
    {"abc", "builtins", "codecs", "encodings", "io", "os", "site", "stat", "sys", "time", "zipimport"}
)
_SIGINT_CODE = 128 + signal.SIGINT


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A program that is ready to run.

    Attributes:
        path: Its file, absolute, as Python says it in `__file__`.
        code: What it does.
        folder: What `sys.path` begins with.
        spec: How it was found, where it is a module; None for a file.
        arguments: `sys.argv`.
    """

    path: str
    code: CodeType
    folder: str
    spec: ModuleSpec | None
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a script ended.

    Attributes:
        code: The exit code that Python would have given it.
        error: What it raised, if that was not `SystemExit`.
    """

    code: int
    error: BaseException | None = None


def find(given: str, arguments: tuple[str, ...], *, is_module: bool) -> Script:
    """The script in the file `given`, or the module of that name. Raises as `find_file` and `find_module`."""
    return find_module(given, arguments) if is_module else find_file(given, arguments)


def find_file(given: str, arguments: tuple[str, ...]) -> Script:
    """The script in the file `given`.

    Raises:
        UsageError: There is no such file, or it holds no Python.
        SyntaxError: It holds Python that is wrong.
    """
    path = os.path.join(os.getcwd(), given)
    if os.path.isdir(path):
        raise UsageError(f"{given!r} is a folder; name the script in it, or a package: `gradscope attach -m PACKAGE`.")
    try:
        source = Path(path).read_bytes()
    except FileNotFoundError:
        raise UsageError(f"no such file: {given!r}{_meant(given, arguments)}") from None
    folder = os.path.dirname(os.path.realpath(path))
    return Script(
        path=path, code=_compiled(source, path, given), folder=folder, spec=None, arguments=(given, *arguments)
    )


def find_module(name: str, arguments: tuple[str, ...]) -> Script:
    """The module `name`, or `__main__` of the package of that name, as `python -m` finds it.

    Raises:
        UsageError: There is no such module, or it has no source.
        SyntaxError: It holds Python that is wrong.
    """
    if name.endswith(".py") and os.path.isfile(name):  # looking for it as a module would run it, as a package
        raise UsageError(f"`-m {name}`: no such module; a file needs none: leave out the -m.")
    folder = os.getcwd()
    _lead_path(folder)
    sys.argv[:] = ["-m", *arguments]  # what Python shows to the packages that it imports on the way
    spec = _spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        name += ".__main__"
        spec = _spec(name)
    path = spec.origin if spec is not None else None
    if path is None or not os.path.isfile(path):
        raise UsageError(f"`-m {name}`: no such module in {folder!r} or sys.path.")
    code = _compiled(Path(path).read_bytes(), path, path)
    return Script(path=path, code=code, folder=folder, spec=spec, arguments=(path, *arguments))


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError as missing:
        if missing.name is not None and not f"{name}.".startswith(f"{missing.name}."):
            raise  # a package on the way lacks something else
        return None
    except ValueError:  # loaded by hand, without a spec
        return None


def _meant(given: str, arguments: tuple[str, ...]) -> str:
    if given in ("python", "python3", "torchrun", "accelerate") and arguments:
        if given.startswith("python"):
            return f"; leave it out: `gradscope attach {' '.join(arguments)}`."
        return f"; it goes before gradscope: `{given} -m gradscope attach {arguments[-1]}`."
    if not given.endswith(".py") and os.path.isfile(given + ".py"):
        return f"; did you mean {given + '.py'!r}?"
    if not given.endswith(".py") and "/" not in given:
        return f"; a module needs -m: `gradscope attach -m {given}`."
    return f" in {os.getcwd()!r}."


def _compiled(source: bytes, path: str, given: str) -> CodeType:
    try:
        return compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:  # ValueError: null bytes, up to Python 3.11.3
        text = b"\0" not in source
        if text and isinstance(error, SyntaxError) and path.endswith((".py", ".pyw")):
            raise
        raise UsageError(f"{given!r} is no Python file: {error.args[0] if error.args else error}.") from None


def run(given: str, arguments: tuple[str, ...], *, is_module: bool) -> Outcome:
    """Runs a script to its end, with the threads that it leaves running; what it raises is shown as Python shows it.

    Raises:
        UsageError: There is no such script.
    """
    try:
        script = find(given, arguments, is_module=is_module)
    except UsageError:
        raise
    except BaseException as error:
        return _ended_by(error)
    try:
        execute(script)
    except BaseException as error:
        return _ended_by(error)
    join_threads()
    return Outcome(0)


def _ended_by(error: BaseException) -> Outcome:
    if isinstance(error, SystemExit):
        outcome = Outcome(exit_code(error))
    else:
        outcome = Outcome(_SIGINT_CODE if isinstance(error, KeyboardInterrupt) else 1, error)
        _show(error)
    join_threads()
    return outcome


def execute(script: Script) -> None:
    """Runs `script` as `__main__`; what it raises passes through."""
    main = _main_module(script)
    _lead_path(script.folder)
    _forget_neighbours(script.folder)
    sys.argv[:] = script.arguments
    sys.modules["__main__"] = main
    exec(script.code, vars(main))


def _main_module(script: Script) -> ModuleType:
    main = ModuleType("__main__")
    main.__file__ = script.path
    main.__spec__ = script.spec
    main.__loader__ = script.spec.loader if script.spec is not None else SourceFileLoader("__main__", script.path)
    main.__package__ = script.spec.parent if script.spec is not None else None
    main.__dict__.update(__annotations__={}, __cached__=script.spec.cached if script.spec is not None else None)
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    return main


def _lead_path(folder: str) -> None:
    """Puts `folder` where Python has put gradscope's own; with -P it puts none."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _forget_neighbours(folder: str) -> None:
    """Modules that gradscope has loaded, and of which the script has its own beside it, are the script's to load."""
    if sys.flags.safe_path:
        return
    for name in [
        name for name in sys.modules if "." not in name and name not in _ALWAYS_LOADED | {"gradscope", "__main__"}
    ]:
        beside = os.path.join(folder, name)
        if os.path.isfile(beside + ".py") or os.path.isfile(os.path.join(beside, "__init__.py")):
            known = getattr(sys.modules[name], "__file__", None)
            if known is not None and not known.startswith(beside):
                for loaded in [m for m in sys.modules if m == name or m.startswith(name + ".")]:
                    del sys.modules[loaded]


def exit_code(leaving: SystemExit) -> int:
    """What Python makes of `sys.exit(…)`: a number is the code, nothing is 0, anything else is printed."""
    code = leaving.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code
    print(code, file=sys.stderr)
    return 1


def _show(error: BaseException) -> None:
    """The traceback as Python shows it, from the script on."""
    without_ours(error)
    sys.excepthook(type(error), error, error.__traceback__)


def join_threads() -> None:
    """Waits for the script's threads as Python does at its end: they may be training."""
    shutdown: Callable[[], None] | None = getattr(threading, "_shutdown", None)  # pools' idle threads end by it too
    if shutdown is not None:
        shutdown()


def before_exec(act: Callable[[], None]) -> None:
    """Calls `act` before the process becomes another program: after that there is no end at which to do it."""
    os.execv = _preceded(os.execv, act)
    os.execve = _preceded(os.execve, act)  # these two are what the others of the family call


def before_exit(act: Callable[[int], None]) -> None:
    """Calls `act` with the exit code before `os._exit`, which ends the process at once."""
    original = os._exit

    @functools.wraps(original)
    def preceded(status: int) -> NoReturn:
        act(status)
        original(status)

    os._exit = preceded


def _preceded(original: Callable[_Arguments, NoReturn], act: Callable[[], None]) -> Callable[_Arguments, NoReturn]:
    @functools.wraps(original)
    def preceded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> NoReturn:
        act()
        original(*args, **kwargs)

    return preceded


def die_of_interrupt_at_exit() -> None:
    """Lets the process die of SIGINT after everything else, as Python's does: a shell's loop stops then.

    To be called before the script runs: what is registered first comes last.
    """
    atexit.register(_die_of_interrupt)


_interrupted = threading.Event()


def _die_of_interrupt() -> None:
    if _interrupted.is_set():
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)


def interrupted() -> None:
    """The process is to die of SIGINT."""
    _interrupted.set()
