"""Readings of this machine, and the signal."""
