"""Read finished run folders, merge them, and make leaderboards."""
