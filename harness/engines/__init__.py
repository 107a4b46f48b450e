"""Models that generate and read: token ids in, completions and log-probabilities out."""
