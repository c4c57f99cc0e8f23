"""Qwen3-ForcedAligner: text and clip → the times of words."""
