"""What a child process runs, under whatever interpreter: nothing of this package is imported here."""
