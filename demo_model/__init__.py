"""A tiny model that thinks in R1's format: its problems, trainer, weights and evaluation."""
