"""Spectral-entropy regulariser, grokking runs, checkpoint schedules."""
