"""What happens inside of torch's recurrent layers, at each step of the sequence."""

from torch import nn


def recurrent_mode(module: nn.Module) -> str:
    """Mode "RNN_TANH", "RNN_RELU", "LSTM" or "GRU" of a recurrent layer or cell of torch's; "" of any other module."""
    match module:
        case nn.RNNBase():
            return str(module.mode)
        case nn.RNNCell():
            return f"RNN_{module.nonlinearity.upper()}"
        case nn.LSTMCell():
            return "LSTM"
        case nn.GRUCell():
            return "GRU"
    return ""
