"""The outer search (Optuna, Ray) and the inner search (replay)."""
