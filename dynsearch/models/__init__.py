"""The runnable dynamic transformer and its weights."""
