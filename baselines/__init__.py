"""The methods that SSO is compared with, one file each."""
