"""A page to try networks in."""
