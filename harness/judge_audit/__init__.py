"""Which judge can be trusted: its verdicts compared with labels from people or from a stronger model."""
