"""Base and tuned model on the same prompts: harm, over-refusal, reasoning, and what the tuning cost."""
