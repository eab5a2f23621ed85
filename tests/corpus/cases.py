"""The modules that hold the cases; importing this one registers them all."""

from corpus import (
    forward_variance,
    healthy_activations,
    healthy_losses,
    healthy_units,
    vanish_depth,
)

MODULES = (
    forward_variance,
    healthy_activations,
    healthy_losses,
    healthy_units,
    vanish_depth,
)
