import math
from itertools import islice

import pytest
import torch
from torch import nn

from gradscope.scenarios import tasks


def first_batches(task, seed, count=3):
    return list(islice(task.batches(seed), count))


@pytest.mark.parametrize(("layout", "shape"), tasks.SHAPES.items())
def test_digits_come_in_four_layouts(layout, shape):
    inputs, targets = next(tasks.digits(layout, batch=16).batches(0))
    assert inputs.shape == (16, *shape)
    assert inputs.dtype == torch.float32
    assert targets.shape == (16,)
    assert set(targets.tolist()) <= set(range(10))


def test_layouts_hold_the_same_digits():
    (flat, _), (image, _), (pixels, _) = (
        next(tasks.digits(layout).batches(3)) for layout in ("flat", "image", "pixels")
    )
    assert torch.equal(flat, image.flatten(1))
    assert torch.equal(flat, pixels.flatten(1))


def test_digits_are_standardised_by_the_training_set():
    train, _, test, _ = tasks.load_digits()
    assert float(train.mean()) == pytest.approx(0, abs=1e-5)
    assert float(train.std()) == pytest.approx(1, abs=1e-3)
    assert float(test.std()) == pytest.approx(1, abs=0.05)
    assert float(train.abs().max()) < 3


def test_no_digit_is_both_in_training_and_held_out():
    train, train_targets, test, test_targets = tasks.load_digits()
    assert len(train) + len(test) == 1797
    assert len(train_targets) == len(train)
    assert len(test_targets) == len(test)
    seen = {tuple(digit.tolist()) for digit in train}
    assert not [digit for digit in test if tuple(digit.tolist()) in seen]


def test_held_out_digits_have_the_same_classes():
    _, train_targets, _, test_targets = tasks.load_digits()
    shares = [targets.bincount(minlength=10) / len(targets) for targets in (train_targets, test_targets)]
    assert torch.allclose(*shares, atol=0.01)


@pytest.mark.parametrize(
    "task", [tasks.digits("flat"), tasks.adding([10, 20], near=4, spread=2)], ids=["digits", "adding"]
)
def test_batches_follow_from_the_seed(task):
    one, same, other = first_batches(task, 1), first_batches(task, 1), first_batches(task, 2)
    assert all(torch.equal(a, b) for pair in zip(one, same, strict=True) for a, b in zip(*pair, strict=True))
    assert not torch.equal(one[0][0], other[0][0])


def test_batches_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    first_batches(tasks.digits(), 0)
    first_batches(tasks.adding([10], near=3, spread=2), 0)
    assert torch.equal(before, torch.get_rng_state())


def test_an_epoch_shows_each_digit_at_most_once():
    train, _, _, _ = tasks.load_digits()
    batch = 64
    epoch = torch.cat([inputs for inputs, _ in first_batches(tasks.digits(batch=batch), 0, len(train) // batch)])
    assert len(torch.unique(epoch, dim=0)) > 0.99 * len(epoch)  # a few digits of the set are equal


def test_the_sum_is_of_a_near_number_and_one_at_a_lag():
    inputs, targets = next(tasks.adding([6, 12], near=3, spread=2, batch=100).batches(0))
    values, marks = inputs.unbind(2)
    assert inputs.shape == (100, 12, 2)
    where = [tuple(mark.nonzero().flatten().tolist()) for mark in marks]
    assert {far for far, _ in where} == {0, 1, 6, 7}  # 12, 11, 6 and 5 steps back from the end
    assert {near for _, near in where} == {9, 10}
    for sequence, mark, target in zip(values, marks, targets, strict=True):
        assert float(target) == pytest.approx(float(sequence[mark.bool()].sum()))


def test_a_lag_within_reach_of_the_near_number_is_refused():
    with pytest.raises(ValueError, match="a lag of 5 with a spread of 2 must be beyond `near=4`"):
        tasks.adding([5, 20], near=4, spread=2)


class Answers(nn.Module):
    """Answers each sequence with a function of it."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


def test_always_answering_one_explains_nothing():
    score = tasks.adding([20, 40], near=4, spread=4).score(Answers(lambda x: torch.ones(len(x), 1)))
    assert score["explained"] == pytest.approx(0, abs=0.02)
    assert tasks.adding([20], near=4, spread=4).score(Answers(lambda x: 9 * torch.ones(len(x), 1)))["explained"] == 0
    assert score["accuracy"] == pytest.approx(1 - 0.9**2, abs=0.04)  # of |s − 1| < 0.1, s the sum of two uniform ones


def test_the_right_sums_explain_everything():
    right = Answers(lambda x: x.prod(2).sum(1, keepdim=True))
    task = tasks.adding([20, 40], near=4, spread=4)
    score = task.score(right)
    assert list(score) == ["accuracy", "explained", "explained at 20", "explained at 40"]
    assert list(score.values()) == pytest.approx([1] * 4)
    inputs, targets = next(task.batches(0))
    assert float(task.loss(right(inputs), targets)) < 1e-10


def test_a_lag_is_scored_by_itself():
    forgets = Answers(lambda x: x[:, 10:].prod(2).sum(1, keepdim=True) + 0.5 * (x[:, :10, 1].sum(1, keepdim=True)))
    score = tasks.adding([20, 40], near=4, spread=4).score(forgets)
    assert score["explained at 20"] == pytest.approx(1)
    assert score["explained at 40"] == pytest.approx(0.5, abs=0.05)


def test_a_word_is_spelled_character_by_character():
    task = tasks.spelling("hello", "helo")
    (inputs, targets), (again, _) = first_batches(task, 0, 2)
    assert inputs[0].argmax(1).tolist() == [0, 1, 2, 2]
    assert targets.tolist() == [[1, 2, 2, 3]]
    assert again is inputs
    scores = torch.zeros(1, 4, 4)
    assert float(task.loss(scores, targets)) == pytest.approx(4 * math.log(4))
    assert task.score(Answers(lambda x: x)) == {"accuracy": 0.25}  # only the l after an l


def test_the_score_of_digits_is_the_share_of_right_answers():
    _, _, test, targets = tasks.load_digits()
    right = Answers(lambda x: nn.functional.one_hot(targets, 10).float())
    assert tasks.digits("flat").score(right)["accuracy"] == 1
    zeros = Answers(lambda x: torch.zeros(len(x), 10))
    assert tasks.digits("image").score(zeros)["accuracy"] == pytest.approx(float((targets == 0).double().mean()))
    assert len(test) == 599
