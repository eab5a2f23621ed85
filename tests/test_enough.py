import logging

from gradscope.enough import Limit


class Models:
    """Models that are trained step by step."""

    def __init__(self, steps, **counts):
        self.counts, self.waiting, self.closed = counts, False, 0
        self.limit = Limit(steps, lambda: (list(self.counts.values()), self.waiting), self.close)

    def close(self):
        self.closed += 1
        self.limit.recorded(None, ())  # a recording that ends tells those who follow

    def step(self, name):
        if not self.closed:
            self.counts[name] += 1
        self.limit.step_ended()


def stopped_after(models, *names, most=200):
    """How many steps it took to be stopped, taking turns."""
    for n in range(most):
        try:
            models.step(names[n % len(names)])
        except SystemExit:
            return n + 1
    return None


def test_every_model_gets_its_steps():
    models = Models(5, generator=0, critic=0)
    assert stopped_after(models, "generator", "critic") == 10
    assert models.counts == {"generator": 5, "critic": 5}
    assert models.closed == 1


def test_no_model_gets_more_than_twice_as_many():
    assert stopped_after(Models(5, generator=0, critic=0), "critic") == 10
    assert stopped_after(Models(5, generator=0, critic=0), "critic", "critic", "critic", "generator") == 13


def test_a_model_that_waits_for_its_first_step_is_waited_for():
    models = Models(3, encoder=0)
    models.waiting = True
    assert stopped_after(models, "encoder", most=4) is None
    models.waiting = False
    assert stopped_after(models, "encoder") == 1


def test_one_that_is_caught_is_raised_again_some_steps_later_and_then_no_more(caplog):
    models = Models(3, net=0)
    assert stopped_after(models, "net") == 3
    assert [stopped_after(models, "net") for _ in range(2)] == [10, 10]
    with caplog.at_level(logging.WARNING, logger="gradscope"):
        assert stopped_after(models, "net") is None
    assert len(caplog.records) == 1
    assert "should end it after 3 steps" in caplog.text
    assert models.closed == 1


def test_after_the_script_nothing_is_raised():
    models = Models(1, net=0)
    models.limit.lift()
    assert stopped_after(models, "net") is None
    assert not models.limit.reached
