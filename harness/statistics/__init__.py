"""Intervals, differences, ranks and power. Numbers in, numbers out: nothing here reads a file."""
