"""The modules that hold the cases; importing this one registers them all."""

from corpus import (
    explode_depth,
    forward_variance,
    healthy_activations,
    healthy_embeddings,
    healthy_frozen_parts,
    healthy_losses,
    healthy_recurrent,
    healthy_sequences,
    healthy_units,
    time_explode,
    time_vanish,
    vanish_depth,
)

MODULES = (
    explode_depth,
    forward_variance,
    healthy_activations,
    healthy_embeddings,
    healthy_frozen_parts,
    healthy_losses,
    healthy_recurrent,
    healthy_sequences,
    healthy_units,
    time_explode,
    time_vanish,
    vanish_depth,
)
