"""Groups of commands; `harness.cli` puts them together."""
