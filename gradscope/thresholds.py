"""What settings may say of rules: which there are, and their thresholds, each of the type that its field has."""

from dataclasses import Field, fields, is_dataclass
from typing import TYPE_CHECKING, cast

from gradscope import plugins
from gradscope.errors import nearest
from gradscope.selectors import reach
from gradscope.toml_table import Table, in_brackets

if TYPE_CHECKING:
    from gradscope.rules.base import Rule


def read_thresholds(rules: Table) -> dict[str, dict[str, float]]:
    """Of [tool.gradscope.rules.NAME], by name and field."""
    found: dict[str, dict[str, float]] = {}
    installed = {one.name: one for one in _installed()}
    by_code = {one.code: one.name for one in installed.values()}
    for name in rules.keys:
        if name in installed:
            found[name] = _fields(rules.table(name), installed[name])
        elif name in by_code:
            rules.mistakes.append(f"`rules.{name}` is written by its name, `rules.{by_code[name]}`")
        else:
            rules.mistakes.append(f"`rules.{name}` is no rule{in_brackets(name, installed)}")
    return found


def thresholds_of(rule: object) -> tuple[Field[object], ...]:
    """The fields of a rule; a rule that is no dataclass has none."""
    return fields(rule) if is_dataclass(rule) else ()


def _fields(table: Table, rule: "type[Rule]") -> dict[str, float]:
    found: dict[str, float] = {}
    own = {one.name.replace("_", "-"): one for one in thresholds_of(rule)}
    table.refuse_others(own)
    for key, threshold in own.items():
        if key not in table:
            continue
        default = threshold.default
        value: float | None = None
        if isinstance(default, bool):
            value = table.switch(key)
        elif isinstance(default, int):
            value = table.whole(key, least=min(default, 0))
        elif isinstance(default, float):
            value = _within(table, key, table.number(key), default)
        else:
            table.refuse(key, "cannot be set here")
        if value is not None:
            found[threshold.name] = value
    return found


def _within(table: Table, key: str, value: float | None, default: float) -> float | None:
    """`value` where it is of the default's kind: a share lies in 0 to 1, a size is not negative."""
    if value is None:
        return None
    if key.endswith(("fraction", "share")) and not 0 <= value <= 1:
        table.refuse(key, "must lie in 0 to 1")
    elif default >= 0 and value < 0:
        table.refuse(key, "must not be negative")
    return value


def refuse_no_rule(table: Table, key: str, selector: str) -> None:
    """Notes a selector that reaches no rule."""
    known = {one.code: one.name for one in _installed()}
    if any(reach(selector, code, name) is not None for code, name in known.items()):
        return
    close = nearest(selector, [*known, *known.values()])
    way_out = close.removeprefix("; ") if close.startswith("; did") else "`gradscope rule --all` shows all"
    table.refuse_word(key, selector, f"which is no rule and no beginning of codes ({way_out})")


def _installed() -> "list[type[Rule]]":
    offered = [one for one in plugins.load("rules") if hasattr(one, "code") and hasattr(one, "name")]
    return cast("list[type[Rule]]", offered)
