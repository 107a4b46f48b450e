"""Bytes on disk: crash-safe writing, readers of rows, records of finished steps, downloads, digests of code."""
