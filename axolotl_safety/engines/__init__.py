"""Engines turn token ids into token ids, in a child process that leaves nothing behind."""
