"""Speed and memory next to what others have, measured side by side: `harness bench`."""
