import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from gradscope.probes.sequence import Sequence

LENGTHS = [2, 5, 3]


@pytest.fixture
def packed():
    return pack_sequence([torch.full((n, 1), float(n)) + torch.arange(n)[:, None] / 10 for n in LENGTHS], False)


@pytest.mark.parametrize(("shape", "batch_first"), [((6, 2, 3), False), ((2, 6, 3), True), ((6, 3), True)])
def test_every_layout_becomes_time_batch_feature(shape, batch_first):
    x = torch.randn(shape)
    sequence = Sequence.of(x, batch_first=batch_first)
    brought = sequence.bring(x, torch.float64)
    assert sequence.length == 6
    assert brought.shape == (6, 1 if len(shape) == 2 else 2, 3)
    assert brought.dtype is torch.float64
    assert sequence.runs == ((0, 6, None),)
    torch.testing.assert_close(sequence.turned(brought, True), brought.flip(0))
    assert sequence.turned(brought, False) is brought
    torch.testing.assert_close(sequence.last(brought), brought[-1])


def test_packed_sequences_lie_by_falling_length_with_zeros_past_their_ends(packed):
    sequence = Sequence.of(packed, batch_first=False)
    x = sequence.bring(packed.data, torch.float32)[..., 0]
    assert sequence.length == 5
    assert sequence.runs == ((0, 2, 3), (2, 3, 2), (3, 5, 1))
    for row, n in enumerate(sorted(LENGTHS, reverse=True)):
        torch.testing.assert_close(x[:n, row], n + torch.arange(n) / 10)
        assert (x[n:, row] == 0).all()
    torch.testing.assert_close(sequence.last(x[..., None])[:, 0], torch.tensor([5.4, 3.2, 2.1]))
    torch.testing.assert_close(sequence.masked(torch.ones(5, 3, 1)).sum((0, 2)), torch.tensor([5.0, 3.0, 2.0]))


def test_each_packed_sequence_turns_within_its_own_length(packed):
    sequence = Sequence.of(packed, batch_first=False)
    x = sequence.bring(packed.data, torch.float32)
    turned = sequence.turned(x, True)
    torch.testing.assert_close(turned[:3, 1, 0], torch.tensor([3.2, 3.1, 3.0]))
    torch.testing.assert_close(sequence.turned(turned, True), x)


def test_states_go_to_the_order_of_the_lengths_and_back(packed):
    sequence = Sequence.of(packed, batch_first=False)
    state = torch.tensor(LENGTHS, dtype=torch.float32).view(1, 3, 1)
    brought = sequence.bring_state(state, torch.float32)
    assert brought.flatten().tolist() == [5, 3, 2]
    torch.testing.assert_close(sequence.restore_state(brought), state)
