"""Certificates: exit thresholds whose risk is bounded on rows that no choice has seen."""
