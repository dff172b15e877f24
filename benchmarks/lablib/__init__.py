"""What the laboratory's benchmarks share: bases, methods as configs, training, figures over seeds."""
