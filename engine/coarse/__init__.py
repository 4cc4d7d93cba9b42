"""Coarse-graining: transforms, quantisers, and the rate–distortion search."""
