"""Questions, answers, judgments and scores: one file for each benchmark, and what they share."""
