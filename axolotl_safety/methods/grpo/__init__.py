"""Axolotl's ``rl: grpo`` with the guard and the format as rewards."""
