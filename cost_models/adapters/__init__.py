"""Measured sources as rows, one file each, found by their columns."""
