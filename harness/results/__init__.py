"""Finished run folders: reading them, merging them, leaderboards."""
