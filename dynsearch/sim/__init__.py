"""What exit policies do on recorded traces, and what that costs on every device."""
