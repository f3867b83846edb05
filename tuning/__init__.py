"""Hyper-parameter search with Ray Tune, behind `segray tune`."""
