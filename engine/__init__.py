"""Checkpoints in, complexity trajectory out."""
