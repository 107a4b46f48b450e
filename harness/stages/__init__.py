"""The life of a training stage: plan, collect examples, train, record."""
