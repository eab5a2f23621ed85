"""The scenario suites, one file each. `SCENARIOS` is what gradscope offers through its own entry point."""

from gradscope.scenarios import (
    clipping,
    hello_rnn,
    initialisation,
    plain_vs_residual,
    rnn_vs_lstm,
    sigmoid_vs_relu,
    truncated_bptt,
)
from gradscope.scenarios.base import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    sigmoid_vs_relu.SCENARIO,
    plain_vs_residual.SCENARIO,
    hello_rnn.SCENARIO,
    rnn_vs_lstm.SCENARIO,
    truncated_bptt.SCENARIO,
    initialisation.SCENARIO,
    clipping.SCENARIO,
)

__all__ = ["SCENARIOS", "Scenario"]
