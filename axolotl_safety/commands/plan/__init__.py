"""What a run would take, before it starts: requests, tokens, memory, time. Arithmetic; no model is loaded."""
