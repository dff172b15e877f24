"""Sizes at which scoring carelessly would cost gigabytes: Qwen2.5's vocabulary, a long row."""

WIDE = 152_064
LONG_ROW = 4000
