"""A missing library is one sentence, and who needs none of them pays for none."""

import subprocess
import sys

import pytest

from gradscope.errors import MissingExtraError
from gradscope.integrations.extras import extra

FOREIGN = {"lightning", "pytorch_lightning", "transformers", "accelerate", "wandb", "mlflow", "tensorboard"}
NEEDS = {"lightning": "lightning", "transformers": "transformers", "wandb": "trackers", "mlflow": "trackers"}


def test_what_to_install_is_said() -> None:
    sentence = (
        r"^gradscope.integrations.wandb cannot import wandb \(No module named 'nothing'\);"
        r" pip install 'gradscope\[trackers\]'$"
    )
    with pytest.raises(MissingExtraError, match=sentence), extra("trackers", "wandb"):
        import nothing  # noqa: F401


def python(program: str) -> list[str]:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_each_integration_says_so_where_its_library_is_not_installed() -> None:
    program = f"""
import sys
from importlib import import_module
for name in {sorted(FOREIGN)}:
    sys.modules[name] = None
for name in {sorted(NEEDS)}:
    try:
        import_module("gradscope.integrations." + name)
    except ImportError as error:
        print(str(error).rpartition(";")[2])
import gradscope.integrations.tensorboard
"""
    assert python(program) == [f" pip install 'gradscope[{NEEDS[name]}]'" for name in sorted(NEEDS)]


def test_gradscope_itself_imports_none_of_them() -> None:
    program = f"""
import sys, gradscope, gradscope.cli, torch
model = torch.nn.Linear(2, 1)
with gradscope.attach(model) as scope:
    model(torch.ones(1, 2)).sum().backward()
scope.diagnose()
print([name for name in sys.modules if name.split(".")[0] in {FOREIGN} or name.startswith("gradscope.integrations")])
"""
    assert python(program) == ["[]"]


def test_trackers_of_a_trace_need_no_torch() -> None:
    program = """
import sys
sys.modules["torch"] = None
from gradscope.integrations import tensorboard, tracking
"""
    assert python(program) == []
