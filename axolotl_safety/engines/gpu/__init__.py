"""GPUs: their memory, its shares, and its return."""
