"""What `real_model.py` is made of."""
