"""Hyper-parameter search with Ray Tune; no verb uses it yet."""
