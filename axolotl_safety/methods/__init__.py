"""What is asked for a row, and which completion becomes its training row."""
