"""A model as files: where it is, what its weights and configuration say, its digests. No weights are loaded."""
