"""Recipes: what a run is made of, as frozen dataclasses, and from their plain values to objects."""
