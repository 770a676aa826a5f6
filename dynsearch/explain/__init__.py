"""Why a configuration is not as fast as its FLOPs promise, and what would help."""
