"""The plan of a run before it starts: requests, tokens, memory, time. Arithmetic; no model is loaded."""
