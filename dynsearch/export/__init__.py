"""What a search leaves: front files, one file per configuration, models that run."""
