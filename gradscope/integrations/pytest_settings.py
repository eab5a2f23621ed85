"""What a test is judged by: its markers, then pytest's own options, then [tool.gradscope], then the defaults.

@pytest.mark.gradscope(steps=50, fail_on="warning")     # of several the closest wins, option by option
gradscope_steps = 50                                    # the same options in pytest.ini and its like
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import pytest

from gradscope.baseline import Baseline, read_baseline
from gradscope.config import FAIL_ON, Config, overridden, read_config
from gradscope.errors import UsageError, nearest
from gradscope.findings import Severity
from gradscope.toml_table import Table

__tracebackhide__ = True  # a mistake is shown where the test made it, not here

WRITE_BASELINE = "--gradscope-write-baseline"
_INI, _PREFIX = "pytest's options", "gradscope_"
_MARKER = "@pytest.mark.gradscope"
OPTIONS = ("steps", "seeds", "device", "fail_on", "select", "ignore", "baseline", "max_drift")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The effective settings of a test.

    Attributes:
        gate: Rules, thresholds, accepted findings, baseline.
        steps: Optimizer steps of a model that the test hands over.
        seeds: How many times it is trained, with seeds 0 to seeds − 1.
        device: As torch writes it; None for where the model is.
        writes_baseline: Whether all that is found will be known from now on, instead of failing a test.
    """

    gate: Config
    steps: int = 20
    seeds: int = 1
    device: str | None = None
    writes_baseline: bool = False

    @property
    def fail_on(self) -> Severity | None:
        """Lowest severity that fails a test; None for never."""
        return None if self.writes_baseline else self.gate.fail_on


def settings_of_session(config: pytest.Config) -> Settings:
    """What pytest's options say, over the [tool.gradscope] that is nearest to its rootdir.

    Raises:
        UsageError: Something in them is wrong.
    """
    given = {name: _ini(config, _PREFIX + name) for name in OPTIONS}
    folder = config.inipath.parent if config.inipath else config.invocation_params.dir
    writes_baseline = config.getoption(WRITE_BASELINE) is not None
    settings = Settings(gate=read_config(start=config.rootpath), writes_baseline=writes_baseline)
    settings = changed(settings, given, folder, origin=_INI, prefix=_PREFIX)
    known(settings)
    return settings


def settings_of_test(settings: Settings, item: pytest.Item) -> Settings:
    """`settings` with what the markers of a test say instead.

    Raises:
        UsageError: A marker is wrong.
    """
    for marker in reversed(list(item.iter_markers("gradscope"))):
        if marker.args:
            raise UsageError(f"{_MARKER}: {marker.args[0]!r} needs the name of an option, such as `steps=`.")
        settings = changed(settings, marker.kwargs, item.config.rootpath, origin=_MARKER)
    known(settings)
    return settings


def known(settings: Settings) -> Baseline | None:
    """The findings that do not count.

    Raises:
        UsageError: The baseline cannot be read.
    """
    if settings.gate.baseline is None or settings.writes_baseline:
        return None
    file = settings.gate.baseline
    try:
        return _baseline(file, file.stat().st_mtime_ns if file.exists() else 0)
    except UsageError as error:
        ours = str(error).replace("gradscope check --write-baseline", f"pytest {WRITE_BASELINE}")
        raise UsageError(ours.replace("`--write-baseline", f"`{WRITE_BASELINE}")) from error


@lru_cache(maxsize=16)
def _baseline(path: Path, modified_ns: int) -> Baseline:
    """Read once for all tests; again where a second run in this process finds the file changed."""
    return read_baseline(path)


def changed(
    settings: Settings, given: Mapping[str, object], folder: Path, *, origin: str, prefix: str = ""
) -> Settings:
    """`settings` with those options instead that are `given` and not None; a baseline is a file in `folder`.

    Raises:
        UsageError: An option is wrong; the sentence begins with `origin`, where it was said.
    """
    mistakes: list[str] = []
    values = {name: _as_in_toml(value) for name, value in given.items() if value is not None}
    table = Table(values, mistakes, path=prefix)
    mistakes += [f"`{name}` is no option{_way_out(name)}" for name in values if name not in OPTIONS]
    steps, seeds, device = table.whole("steps", least=1), table.whole("seeds", least=1), table.text("device")
    gate = _gate(settings.gate, table, folder, origin, prefix)
    if mistakes:
        raise UsageError(f"{origin}: {'; '.join(mistakes)}.")
    return replace(
        settings,
        gate=gate,
        steps=steps or settings.steps,
        seeds=seeds or settings.seeds,
        device=device or settings.device,
    )


def _gate(config: Config, table: Table, folder: Path, origin: str, prefix: str) -> Config:
    """`config` with what `table` says of the rules and of what fails; its mistakes are noted there."""
    baseline = table.text("baseline")
    select, ignore = table.texts("select"), table.texts("ignore")
    fail_on, max_drift = table.choice("fail_on", FAIL_ON), table.positive("max_drift")
    try:
        return overridden(
            config,
            select=select,
            ignore=ignore,
            fail_on=fail_on,
            max_drift=max_drift,
            baseline=None if baseline is None else folder / baseline,
            origin=origin,
        )
    except UsageError as error:
        said = str(error).removeprefix(f"{origin}: ").removesuffix(".")
        for theirs, ours in (("select", "select"), ("ignore", "ignore"), ("max-drift", "max_drift")):
            said = said.replace(f"`{theirs}", f"`{prefix}{ours}")
        table.mistakes.append(said)
        return config


def _ini(config: pytest.Config, name: str) -> object:
    """The value of an option of pytest's; None where it is not set.

    Raises:
        UsageError: pytest cannot read it; the text says what it says.
    """
    try:
        value: object = config.getini(name)
    except (ValueError, TypeError, pytest.UsageError) as error:
        raise UsageError(f"{_INI}: `{name}`: {' '.join(str(error).split()).removesuffix('.')}.") from error
    if value == [] and pytest.version_tuple < (8,):
        return None  # there it is what is not set
    if isinstance(value, str) and name.removeprefix(_PREFIX) in ("steps", "seeds", "max_drift"):
        return _number(value)  # before pytest 8.4 all that is no list is text
    return value


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _as_in_toml(value: object) -> object:
    """Python's other words for what TOML has."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple | set | frozenset) else value


def _way_out(name: str) -> str:
    return nearest(name, OPTIONS).removesuffix(".")
