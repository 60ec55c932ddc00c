"""Runs: a network or a student and its teacher, trained into a run folder."""
