"""The rules, one file each. `RULES` is what gradscope offers through its own entry point."""

from gradscope.rules.base import Rule

RULES: tuple[type[Rule], ...] = ()

__all__ = ["RULES", "Rule"]
