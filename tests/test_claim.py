import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gradscope.claim import claim, is_claimed

HOLDER = """
import sys
from pathlib import Path
from gradscope.claim import claim
assert claim(Path(sys.argv[1])) is not None
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    return path


def test_a_file_is_claimed_until_its_process_ends(path: Path) -> None:
    assert is_claimed(path) is False
    words = [sys.executable, "-c", HOLDER, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_claimed(path) is True
        assert is_claimed(path) is True, "asking does not change it"
        with pytest.raises(BlockingIOError):
            claim(path)
        holder.kill()
    assert is_claimed(path) is False


def test_who_claims_it_waits_for_who_only_asks(path: Path) -> None:
    asked = threading.Event()

    def ask() -> None:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        asked.set()
        time.sleep(0.05)
        os.close(descriptor)

    thread = threading.Thread(target=ask)
    thread.start()
    asked.wait()
    descriptor = claim(path)
    thread.join()
    assert descriptor is not None
    assert is_claimed(path) is True
    os.close(descriptor)


def test_there_must_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        is_claimed(tmp_path / "none")
