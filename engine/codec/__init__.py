"""Entropy coders and the .kolmo container."""
