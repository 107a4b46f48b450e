"""The gate: is a run as good as a stored reference, beyond what runs differ by chance?"""
