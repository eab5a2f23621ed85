"""The scenario suites, one file each. `SCENARIOS` is what gradscope offers through its own entry point."""

from gradscope.scenarios.base import Scenario

SCENARIOS: tuple[Scenario, ...] = ()

__all__ = ["SCENARIOS", "Scenario"]
