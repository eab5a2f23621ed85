"""The scenario suites, one file each. `SCENARIOS` is what gradscope offers through its own entry point."""

from gradscope.scenarios import clipping, initialisation, plain_vs_residual, rnn_vs_lstm, sigmoid_vs_relu
from gradscope.scenarios.base import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    sigmoid_vs_relu.SCENARIO,
    plain_vs_residual.SCENARIO,
    rnn_vs_lstm.SCENARIO,
    initialisation.SCENARIO,
    clipping.SCENARIO,
)

__all__ = ["SCENARIOS", "Scenario"]
