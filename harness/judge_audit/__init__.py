"""Which judge can be trusted: a judge's verdicts compared with labels of people, or of a stronger model."""
