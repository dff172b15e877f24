"""Models in child processes of ours."""
