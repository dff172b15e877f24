"""Whether an answer refuses: a linear detector that needs no model."""
