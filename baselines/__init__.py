"""The methods that SSO is compared with, one per file."""
