"""What the command line prints and computes; imported one by one, when a command needs it."""
