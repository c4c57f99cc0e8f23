"""Qwen3-ASR on vLLM servers: what is said to them, how they are, and which one gets a clip."""
