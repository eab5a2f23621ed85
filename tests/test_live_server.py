"""The server by itself; who gets the page is in tests/e2e/test_live_page.py."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from script_runs import ENVIRONMENT


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = [sys.executable, "-m", "gradscope", "live", str(tmp_path / "run.h5"), "--web", "--port", str(port)]
        done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)
    assert done.returncode == 2
    assert f"`--port {port}` cannot be used: " in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--web"], ["--stay"]])
def test_an_interrupted_view_ends_as_every_command_does(tmp_path: Path, words: list[str]) -> None:
    command = [sys.executable, "-m", "gradscope", "live", str(tmp_path / "run.h5"), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as view:
        assert view.stdout is not None
        assert view.stdout.readline()
        view.send_signal(signal.SIGINT)
        _, said = view.communicate(timeout=30)
    assert view.returncode == 130
    assert said.strip() == "gradscope: interrupted"
