"""What a finished search tells beyond its front: progress, knobs that matter, limits that bind."""
