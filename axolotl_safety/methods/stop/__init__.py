"""`safety.stop`: what runs in the trainer, decoding by the model as it stands and the rule that ends training."""
