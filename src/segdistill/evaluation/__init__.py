"""Scores and latency of a network."""
