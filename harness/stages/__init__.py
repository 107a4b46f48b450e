"""Training stages: plan, collect examples, train, record."""
