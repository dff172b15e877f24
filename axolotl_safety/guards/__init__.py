"""Guards: prompt in, verdict out, fail closed."""
