"""The regression gate: is a run worse than a stored reference, beyond what chance explains?"""
