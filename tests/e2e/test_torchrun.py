"""`torchrun -m gradscope attach` with a script that knows nothing of it."""

import subprocess
import sys
from pathlib import Path

import pytest

from gradscope.cli import main
from gradscope.storage import read_trace

SCRIPT = Path(__file__).parent / "scripts" / "ddp.py"
HANGS_AFTER_S = 120


@pytest.mark.slow
def test_each_process_writes_its_file_and_one_speaks(tmp_path: Path) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    attach = ["-m", "gradscope", "attach", "--out", str(tmp_path / "run.h5"), str(SCRIPT)]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, *torchrun, *attach], capture_output=True, text=True, timeout=HANGS_AFTER_S, cwd=root
    )
    assert done.returncode == 0, done.stderr
    said = sorted(done.stdout.replace("through", "through\n").split("\n"))  # the two may speak at once
    assert list(filter(None, said)) == ["rank 0 is through", "rank 1 is through"]
    assert done.stderr.count("6 steps recorded") == 1
    assert "rank 0 of 2 only" in done.stderr
    assert f"{tmp_path / 'run.rank0.h5'}; `gradscope merge` adds up those of all 2 ranks" in done.stderr
    ranks = [str(path) for path in sorted(tmp_path.iterdir())]
    assert main(["merge", *ranks, "-o", str(tmp_path / "run.h5")]) == 0
    merged = read_trace(tmp_path / "run.h5")
    assert merged.meta["distributed"] == {"world_size": 2, "parameters": "replicated", "ranks": [0, 1]}
    assert merged.series("0", "output", "numel").tolist() == [80] * 6
    assert not merged.events
