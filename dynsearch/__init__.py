"""Hardware-aware simulation and architecture search for dynamic transformers."""
