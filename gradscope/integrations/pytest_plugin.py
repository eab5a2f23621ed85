"""pytest: a fixture that judges the models of a test, a marker and options that say by what, and what was judged.

    def test_the_encoder_learns(gradscope):
        gradscope.assert_healthy(build_encoder, batch=tiny_batch, loss=cross_entropy)

    def test_the_training_is_healthy(gradscope):
        gradscope.attach(model, optimizer=optimizer)  # detached, and judged, when the test has passed
        train(model, optimizer)

pytest loads this file in every run, wherever gradscope is installed: nothing but pytest is imported before a test asks.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Literal

import pytest

if TYPE_CHECKING:
    from gradscope.integrations.pytest_judging import Gradscope, Told
    from gradscope.integrations.pytest_settings import Settings

_SETTINGS = pytest.StashKey["Settings"]()
_JUDGING = pytest.StashKey["Gradscope"]()
_MISTAKE = "gradscope_mistake"  # in what a worker of pytest-xdist hands back

# since 8.4 an option may be a number, which in a TOML file it then has to be
_WHOLE: Literal["int", "string"] = "int" if pytest.version_tuple >= (8, 4) else "string"
_NUMBER: Literal["float", "string"] = "float" if pytest.version_tuple >= (8, 4) else "string"

MARKER = (
    "gradscope(steps, seeds, device, fail_on, select, ignore, baseline, max_drift): by what the fixture `gradscope`"
    " judges; the closest marker wins, then the options gradscope_steps and so on, then [tool.gradscope]"
)
_OPTIONS: tuple[tuple[str, Literal["string", "args", "int", "float"], str], ...] = (
    ("steps", _WHOLE, "optimizer steps for which `gradscope.assert_healthy` and `check` train (default: 20)"),
    ("seeds", _WHOLE, "how many times they train, with seeds 0, 1, … (default: 1)"),
    ("device", "string", "where they train, as torch writes it (default: where the model is)"),
    ("fail_on", "string", "lowest severity that fails a test: error, warning, info, never (default: error)"),
    ("select", "args", "rules that are asked: beginnings of codes, or names"),
    ("ignore", "args", "rules that are not asked"),
    ("baseline", "string", "file of known findings, relative to this one; --gradscope-write-baseline makes it"),
    ("max_drift", _NUMBER, "decades by which a layer's gain may differ from the baseline's"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of the ini file, and the one that writes a baseline."""
    for name, kind, about in _OPTIONS:
        parser.addini(f"gradscope_{name}", about, type=kind, default=None)
    parser.getgroup("gradscope").addoption(
        "--gradscope-write-baseline",
        metavar="FILE",
        help="write what gradscope finds to FILE as known, and fail no test for it; tests that did not run keep theirs",
    )


def pytest_configure(config: pytest.Config) -> None:
    """The marker; and who writes the baseline, in the process that sees all reports."""
    config.addinivalue_line("markers", MARKER)
    file = config.getoption("--gradscope-write-baseline")
    if file is not None and not hasattr(config, "workerinput"):
        from gradscope.integrations.pytest_baseline import BaselineWriter

        config.pluginmanager.register(BaselineWriter(config.invocation_params.dir / file))


# ---------------------------------------------------------------- settings


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Reads the settings as soon as it is known that a test needs them, so that a mistake in them ends the run."""
    if not any("gradscope" in getattr(item, "fixturenames", ()) for item in items):
        return
    from gradscope.errors import GradscopeError

    try:
        _settings(config)
    except GradscopeError as error:
        handed_back = getattr(config, "workeroutput", None)
        if handed_back is None:
            raise pytest.UsageError(f"gradscope: {error}") from error
        handed_back[_MISTAKE] = str(error)  # a worker that raises is taken for one that crashed, and started again
        items.clear()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """A worker of pytest-xdist has ended: says what was wrong with the settings."""
    mistake = getattr(node, "workeroutput", {}).get(_MISTAKE)
    if mistake is not None:
        raise pytest.UsageError(f"gradscope: {mistake}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A marker that is wrong fails its test, whether it asks for the fixture or not."""
    if item.get_closest_marker("gradscope") is not None:
        _settings_of(item)


def _settings(config: pytest.Config) -> "Settings":
    if _SETTINGS not in config.stash:
        from gradscope.integrations.pytest_settings import settings_of_session

        config.stash[_SETTINGS] = settings_of_session(config)
    return config.stash[_SETTINGS]


def _settings_of(item: pytest.Item) -> "Settings":
    from gradscope.errors import GradscopeError
    from gradscope.integrations.pytest_settings import settings_of_test

    try:
        return settings_of_test(_settings(item.config), item)
    except GradscopeError as error:
        mistake = str(error)
    pytest.fail(mistake, pytrace=False)


# ---------------------------------------------------------------- a test


@pytest.fixture
def gradscope(request: pytest.FixtureRequest) -> "Iterator[Gradscope]":
    """Judges models: `.assert_healthy(model, batch=…, loss=…)`, `.check(…)`, `.attach(model)` until the test ends."""
    from gradscope.integrations.pytest_judging import Gradscope

    item = request.node
    judging = item.stash[_JUDGING] = Gradscope(item, _settings_of(item))
    yield judging
    judging.detach()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Judges what the test has attached, as the last thing that it does."""
    __tracebackhide__ = True  # a failure is shown where the test attached
    judging = item.stash.get(_JUDGING, None)
    if judging is None:
        return (yield)
    try:
        result = yield
    except (Exception, pytest.fail.Exception):
        judging.explain()
        raise
    if getattr(item, "_excinfo", None):  # of a unittest.TestCase, which keeps its failures
        judging.explain()
    else:
        judging.judge_scopes()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The last report of a test carries what was judged, so that it arrives where the summary is written."""
    report = yield
    judging = item.stash.get(_JUDGING, None)
    if judging is not None and call.when == "teardown":
        vars(report)["gradscope"] = judging.told
        del item.stash[_JUDGING]
    return report


# ---------------------------------------------------------------- the end


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """A line for each model that was judged, findings that fail no test, what has gone; `-q`: no healthy ones."""
    told: list[tuple[str, Told]] = [
        (report.nodeid, one)
        for reports in terminalreporter.stats.values()
        for report in reports
        for one in getattr(report, "gradscope", ())
        if terminalreporter.verbosity >= 0 or one["below"] or not one["passes"]
    ]
    if told:
        terminalreporter.section("gradscope")
    for test, one in told:
        colour = "red" if not one["passes"] else "yellow" if one["below"] else "green"
        terminalreporter.write_line(f"{test}  {one['line']}", **{colour: True})
        for line in filter(None, (*one["below"], one["gone"])):
            terminalreporter.write_line(f"  {line}")
