"""Scores, each named by its protocol."""
