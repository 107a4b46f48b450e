"""A method and a benchmark for the harness."""
