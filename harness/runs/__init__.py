"""An experiment carried out: inputs, arms, scoring, tuning, processes, and checks of what is left."""
