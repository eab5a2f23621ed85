import gc
import weakref

import pytest
from builders import trace_of

from gradscope.budget import budget_of
from gradscope.flow import flow_of
from gradscope.once import once
from gradscope.rules.layers import learned_layers, size_of
from gradscope.rules.learning import trainable_parameters


class Finished:
    pass


def test_it_is_worked_out_once_for_each_object():
    asked = []

    @once
    def found(finished):
        asked.append(finished)
        return len(asked)

    one, other = Finished(), Finished()
    assert [found(one), found(other), found(one), found(other)] == [1, 2, 1, 2]
    assert asked == [one, other]


def test_what_could_not_be_told_is_asked_again():
    asked = []

    @once
    def found(finished):
        asked.append(finished)
        raise LookupError("not yet")

    one = Finished()
    for _ in range(2):
        with pytest.raises(LookupError, match="not yet"):
            found(one)
    assert len(asked) == 2


def test_none_is_an_answer():
    asked = []

    @once
    def found(finished):
        asked.append(finished)

    one = Finished()
    assert found(one) is found(one) is None
    assert len(asked) == 1


def test_a_trace_that_was_judged_is_freed():
    trace = trace_of(output_grad_rms=[1.0, 2.0, 3.0])
    for answer in (flow_of, learned_layers, trainable_parameters, budget_of):
        assert answer(trace) is answer(trace)
    size_of(trace, 0)
    freed = weakref.ref(trace)
    del trace
    gc.collect()
    assert freed() is None
