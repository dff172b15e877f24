"""A linear detector of refusals that needs no model."""
