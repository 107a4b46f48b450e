"""The report page of a run: one HTML file with everything in it, made from the run folder alone."""
