"""Speed and memory measured side by side with other implementations: `harness bench`."""
