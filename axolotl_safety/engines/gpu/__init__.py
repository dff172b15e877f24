"""GPUs: what is there, what models take of it, what is given back."""
