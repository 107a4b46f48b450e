"""Intervals, differences, ranks and power: pure functions of numbers; nothing here reads a file."""
