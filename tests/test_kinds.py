"""What a class of modules does to a gradient."""

import pytest

from gradscope.kinds import ACTIVATIONS, LARGEST_SLOPE, Kind, kind_of

KINDS = {
    "Sigmoid": Kind.ACTIVATION, "NewGELUActivation": Kind.ACTIVATION, "Softmax": Kind.ACTIVATION,
    "Linear": Kind.WEIGHTS, "Conv2d": Kind.WEIGHTS, "Embedding": Kind.WEIGHTS, "Conv1D": Kind.WEIGHTS,
    "BatchNorm2d": Kind.NORMALISATION, "LlamaRMSNorm": Kind.NORMALISATION,
    "MultiheadAttention": Kind.ATTENTION, "ScaledDotProductAttention": Kind.ATTENTION,
    "LSTM": Kind.RECURRENCE, "GRUCell": Kind.RECURRENCE, "AdaptiveAvgPool2d": Kind.POOLING, "Dropout": Kind.OTHER,
}  # fmt: skip


@pytest.mark.parametrize(("module_type", "kind"), KINDS.items(), ids=KINDS)
def test_kinds(module_type, kind):
    assert kind_of(module_type, has_weight=False) is kind


def test_what_nobody_knows_is_told_by_its_weight():
    assert kind_of("MyMixer", has_weight=True) is Kind.WEIGHTS
    assert kind_of("MyMixer", has_weight=False) is Kind.OTHER


def test_bounded_functions_are_activations():
    assert set(LARGEST_SLOPE) <= ACTIVATIONS
