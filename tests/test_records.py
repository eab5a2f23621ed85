import pytest

from gradscope.records import COLUMN, GRADIENT_QUANTITIES, PARAMETER_QUANTITIES, STATISTICS, Quantity, Site, Statistic


@pytest.mark.parametrize(
    ("site", "text"),
    [
        (Site(module="fc", module_type="Linear", quantity=Quantity.OUTPUT_GRAD), "fc:output_grad"),
        (Site(module="fc", module_type="Linear", quantity=Quantity.WEIGHT, name="bias"), "fc.bias:weight"),
        (Site(module="rnn", module_type="LSTM", quantity=Quantity.OUTPUT, name="1.0"), "rnn[1.0]:output"),
        (Site(module="", module_type="Net", quantity=Quantity.TOTAL_NORM, name="raw"), "(model)[raw]:total_norm"),
        (Site(module="", module_type="Net", quantity=Quantity.LOSS), "(model):loss"),
    ],
)
def test_a_site_reads_as_module_and_quantity(site: Site, text: str) -> None:
    assert str(site) == text


def test_quantities_and_statistics_are_those_of_the_contract() -> None:
    quantities = "input output input_grad output_grad state state_grad gate weight weight_grad applied_grad"
    assert [q.value for q in Quantity] == [*quantities.split(), "weight_update", "loss", "total_norm"]
    always = "numel mean std rms l2_norm abs_max min max zero_fraction nonfinite_count"
    assert [s.value for s in STATISTICS][:10] == always.split()
    assert {"dead_fraction", "saturated_fraction", "underflow_fraction"} <= set(COLUMN)


def test_a_statistic_indexes_its_column() -> None:
    assert [COLUMN[statistic] for statistic in Statistic] == list(range(len(STATISTICS)))


def test_every_gradient_of_a_parameter_is_one_of_a_parameter() -> None:
    assert {Quantity.WEIGHT_GRAD, Quantity.APPLIED_GRAD} == GRADIENT_QUANTITIES & PARAMETER_QUANTITIES
    assert {q for q in Quantity if q.value.endswith("_grad")} == GRADIENT_QUANTITIES
