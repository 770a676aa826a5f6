"""Lowering: shapes of a candidate -> operator table."""
