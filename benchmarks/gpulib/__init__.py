"""What the benchmarks of memory and speed share: models with random weights, peaks, the loss, a training step."""
