"""Estimates, intervals and verdicts of every claim."""
