"""Training scripts as a user starts them, each in a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import gradscope

SCRIPTS = Path(__file__).parent / "e2e" / "scripts"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(gradscope.__file__).parents[1])}


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


class Zygote:
    """Runs scripts in forks of one process."""

    def __init__(self, folder, *preloaded):
        self._folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, SCRIPTS.with_name("zygote.py"), *preloaded],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        assert self._process.stdout.readline() == "ready\n"

    def run(self, *argv, attached=None):
        """A script, alone or with the options `attached` of `gradscope attach`."""
        return self._run(argv, None if attached is None else ["attach", *attached, *argv])

    def check(self, script, *arguments, options=(), cwd=SCRIPTS):
        """A script under `gradscope check`."""
        return self._run((), ["check", *options, str(script), *(["--", *arguments] if arguments else [])], cwd)

    def _run(self, argv, gradscope, cwd=SCRIPTS):
        self._count += 1
        output = str(self._folder / str(self._count))
        job = {"argv": argv, "gradscope": gradscope, "cwd": str(cwd), "output": output}
        print(json.dumps(job), file=self._process.stdin, flush=True)
        code = int(self._process.stdout.readline())
        return Ended(code, *(Path(output + end).read_text(encoding="utf-8") for end in (".out", ".err")))

    def close(self):
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
