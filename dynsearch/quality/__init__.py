"""Quality: labelled text, the supernet, traces and metrics."""
