"""The configuration of each command: the keys of `segray NAME` are in NAME.py."""
