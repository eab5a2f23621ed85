"""The modules that hold the cases; importing this one registers them all."""

from corpus import healthy_activations, healthy_losses, healthy_units

MODULES = (healthy_activations, healthy_losses, healthy_units)
