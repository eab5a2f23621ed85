from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from gradscope import plugins
from gradscope.errors import PluginError


@dataclass(frozen=True)
class Offered:
    name: str
    code: str | None = None


@dataclass(frozen=True)
class EntryPoint:
    """What `importlib.metadata.entry_points` gives of an installed distribution."""

    distribution: str
    offers: object
    name: str = "extra"

    @property
    def value(self) -> str:
        return f"{self.distribution.replace('-', '_')}:RULES"

    @property
    def dist(self) -> SimpleNamespace | None:
        return SimpleNamespace(name=self.distribution) if self.distribution else None

    def load(self) -> object:
        if isinstance(self.offers, Exception):
            raise self.offers
        return self.offers


OWN = EntryPoint("gradscope", (Offered("dead-units", "GS301"), Offered("saturation", "GS302")), name="builtin")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Makes the entry points of the group `gradscope.rules`."""

    def installed(*points: EntryPoint) -> None:
        groups = {"gradscope.rules": points}
        monkeypatch.setattr(plugins, "entry_points", lambda *, group: groups.get(group, ()))
        plugins.load.cache_clear()

    yield installed
    plugins.load.cache_clear()


def test_the_built_ins_come_first(install: Callable[..., None]) -> None:
    install(EntryPoint("acme-scope", (Offered("attention-sink", "AC1"),), name="acme"), OWN)
    assert [item.name for item in plugins.load("rules")] == ["dead-units", "saturation", "attention-sink"]


def test_a_kind_that_nobody_offers_is_empty(install: Callable[..., None]) -> None:
    install(OWN)
    assert plugins.load("reports") == ()


@pytest.mark.parametrize(
    ("rule", "key"), [(Offered("dead-units", "AC1"), "dead-units"), (Offered("dead-neurons", "GS301"), "GS301")]
)
def test_a_name_or_code_that_is_taken_names_both_owners(install: Callable[..., None], rule: Offered, key: str) -> None:
    install(OWN, EntryPoint("acme-scope", (rule,)))
    with pytest.raises(PluginError) as caught:
        plugins.load("rules")
    assert str(caught.value) == f"rule {key!r} is offered by both gradscope and acme-scope; uninstall one or rename it."


def test_two_others_may_clash_too(install: Callable[..., None]) -> None:
    install(OWN, EntryPoint("acme-scope", (Offered("sink"),)), EntryPoint("beta-scope", (Offered("sink"),), name="z"))
    with pytest.raises(PluginError, match="'sink' is offered by both acme-scope and beta-scope"):
        plugins.load("rules")


def test_objects_without_a_code_do_not_clash(install: Callable[..., None]) -> None:
    install(EntryPoint("acme-scope", (Offered("a"), Offered("b"))))
    assert len(plugins.load("rules")) == 2


def test_a_module_that_cannot_be_imported_is_named(install: Callable[..., None]) -> None:
    install(EntryPoint("acme-scope", ImportError("No module named 'acme_scope'")))
    with pytest.raises(PluginError, match=r"rules of acme-scope \(`acme_scope:RULES`\) cannot be loaded: ImportError"):
        plugins.load("rules")


def test_a_list_is_refused(install: Callable[..., None]) -> None:
    install(EntryPoint("acme-scope", [Offered("a")]))
    with pytest.raises(PluginError, match="`acme_scope:RULES` of acme-scope must be a tuple of rules, it is a list"):
        plugins.load("rules")


def test_an_entry_point_without_a_distribution_is_named_by_its_value(install: Callable[..., None]) -> None:
    install(EntryPoint("", None))
    with pytest.raises(PluginError, match="`:RULES` of :RULES must be a tuple"):
        plugins.load("rules")


def test_entry_points_are_looked_up_once(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    install(OWN)
    first = plugins.load("rules")
    monkeypatch.setattr(plugins, "entry_points", None)
    assert plugins.load("rules") is first
