"""From examples and a loss to a checkpoint."""
