"""Which rules are asked, and with which thresholds."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gradscope.config import Config, overridden
from gradscope.errors import UsageError
from gradscope.rules.base import Rule
from gradscope.rules.engine import default_rules
from gradscope.selectors import reach


def chosen_rules(config: Config) -> tuple[Rule, ...]:
    """The installed rules that `config` selects, with its thresholds.

    Raises:
        UsageError: None is left: what nobody judges is not healthy. Or a rule does not take its thresholds.
    """
    chosen = selected(default_rules(), select=config.select, ignore=config.ignore)
    if not chosen:
        said = " ".join(
            f"{key} = [{', '.join(map(repr, words))}] ({config.origin(key)})"
            for key, words in (("select", config.select), ("ignore", config.ignore))
        )
        raise UsageError(f"no rule is left to judge with: {said}; `gradscope list rules` shows all that there are.")
    return tuple(_with(rule, config.rules.get(rule.name, {})) for rule in chosen)


def rules_named(*, select: Sequence[str] | None = None, ignore: Sequence[str] | None = None) -> tuple[Rule, ...]:
    """The same for a call without settings: beginnings of codes, or names, and the default thresholds."""
    return chosen_rules(overridden(Config(root=Path.cwd()), select=select, ignore=ignore, origin="this call"))


def selected(rules: Iterable[Rule], *, select: Sequence[str], ignore: Sequence[str]) -> tuple[Rule, ...]:
    """Those of `rules` that `select` names more closely than `ignore` does, as in ruff: "GS301" beats "GS3"."""
    return tuple(rule for rule in rules if _reach(closest(select, rule), rule) > _reach(closest(ignore, rule), rule))


def closest(selectors: Sequence[str], rule: Rule) -> str | None:
    """The word that names `rule` most closely; None if none does."""
    return max(
        (word for word in selectors if _reach(word, rule) >= 0), key=lambda word: _reach(word, rule), default=None
    )


def _reach(selector: str | None, rule: Rule) -> int:
    length = None if selector is None else reach(selector, rule.code, rule.name)
    return -1 if length is None else length


def _with(rule: Rule, thresholds: Mapping[str, float]) -> Rule:
    if not thresholds:
        return rule
    try:
        return type(rule)(**thresholds)
    except (TypeError, ValueError) as error:
        said = ", ".join(f"{name} = {value!r}" for name, value in thresholds.items())
        raise UsageError(f"rule {rule.name!r} does not take {said}: {error}.") from error
