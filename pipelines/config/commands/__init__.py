"""The configuration of each command."""
