"""Who judges, what a judge is asked, and how its verdict is parsed."""
