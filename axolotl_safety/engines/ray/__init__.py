"""Models in actors of a Ray cluster."""
