"""What every part may use: files, errors, terminal, interruption."""
