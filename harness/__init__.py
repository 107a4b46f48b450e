"""One harness that trains SSO and its baselines under identical budgets, scores them, and compares them."""

__version__ = "0.1.0"
