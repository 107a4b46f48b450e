"""A model as files: its location, its weights' shapes, its configuration and digests. No weights are loaded."""
