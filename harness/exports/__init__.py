"""What a finished run gives to other tools: data sets, models with cards, scores in the formats of others."""
