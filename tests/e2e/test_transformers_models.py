"""Attach, train, diagnose: a table of tiny models of the `transformers` library, one row for each architecture."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, Architecture
from torch import Tensor
from watching import Training, assert_harmless

transformers = pytest.importorskip("transformers")

ROWS: list[tuple[str, ...]] = []
HEADS = ("architecture", "kind", "modules", "parameters", "sites", "findings after 3 steps at random init")


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """The library warns of token ids beyond a vocabulary as small as this."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def training_of(architecture: Architecture) -> Training:
    model = architecture.build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(number: int) -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = model(**architecture.batch(number)).loss
        loss.backward()
        optimizer.step()
        return loss

    return Training(model, [optimizer], step)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a.name)
def test_an_architecture_is_watched_without_a_trace(architecture: Architecture) -> None:
    course = assert_harmless(lambda: training_of(architecture))
    trace, findings = course.trace, course.scope.diagnose().findings  # type: ignore[union-attr]
    numbers = (len(trace.meta["modules"]), trace.meta["parameters"], len(trace.sites))  # type: ignore[arg-type]
    found = ", ".join(f"{f.severity} {f.code} {f.module}" for f in findings)
    ROWS.append((architecture.name, architecture.kind, *map(str, numbers), found))


def test_the_readme_states_how_many_there_are() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert f"trains {len(ARCHITECTURES)} architectures of the `transformers`" in readme
    assert len({architecture.name for architecture in ARCHITECTURES}) == len(ARCHITECTURES)


@pytest.mark.slow
def test_the_table_of_architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    if not ROWS:
        pytest.skip("no architecture was tried")
    lines = [HEADS, tuple("---" for _ in HEADS), *sorted(ROWS, key=lambda row: (row[1], row[0]))]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    path = tmp_path_factory.mktemp("architectures") / "architectures.md"
    path.write_text(table, encoding="utf-8")
    print(f"{path}\n{table}")
    named = [row[0] for row in ROWS]
    assert len(set(named)) == len(named)
    assert set(named) <= {architecture.name for architecture in ARCHITECTURES}
    assert all(len(row) == len(HEADS) and all(row[:-1]) for row in ROWS)  # most have no findings
