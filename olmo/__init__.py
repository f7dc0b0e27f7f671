"""Molmo2 with Spatio-Temporal Token Scoring, small and readable."""
