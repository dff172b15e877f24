"""The commands that this package adds to Axolotl's own."""
