"""Scores of a model, and how long it takes."""
