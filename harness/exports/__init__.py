"""Export a finished run for other tools: data sets, models with cards, scores in the formats of others."""
