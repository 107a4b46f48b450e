"""The testbed: a small model made by the project itself, its world, its benchmark suites and its judge."""
