"""Bytes on disk: writing that survives a crash, rows of all formats, finished steps, downloads, digests of code."""
