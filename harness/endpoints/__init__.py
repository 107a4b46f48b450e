"""The client of OpenAI-compatible endpoints: judges, models that are scored, writers of principles."""
