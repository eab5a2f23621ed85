"""Who writes a file: a lock that goes with the process, however it ends."""

import os
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no flock: there two processes are not told apart
    fcntl = None  # type: ignore[assignment]

_PATIENCE_S, _PAUSE_S = 0.25, 0.01  # who asks `is_claimed` holds the lock for some microseconds


def claim(path: Path) -> int | None:
    """The descriptor that holds the lock on the file `path` until it is closed; None where there are no locks.

    Raises:
        BlockingIOError: Another process holds it.
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    last = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > last:
                os.close(descriptor)
                raise
            time.sleep(_PAUSE_S)
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        else:
            return descriptor


def is_claimed(path: str | Path) -> bool | None:
    """Whether some process holds the lock on the file `path`; None where that cannot be known.

    Raises:
        OSError: There is no such file.
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)  # and the lock goes
    return False
