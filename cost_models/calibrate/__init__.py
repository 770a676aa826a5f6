"""Calibration in three separable steps: plan, measure (a standalone script), fit."""
