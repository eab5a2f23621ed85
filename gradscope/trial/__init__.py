"""A trial: a model is trained for a few steps, with a seed, and watched. `training` is where to begin to read.

    a model or its factory, batches, a loss, optimizers ─→ isolated, seeded, trained ─→ a trace

Each thing that a user may give in several forms has a file of its own.
"""

from gradscope.trial.training import Trial, of, train

__all__ = ["Trial", "of", "train"]
