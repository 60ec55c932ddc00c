"""Scores of label maps against labels."""
