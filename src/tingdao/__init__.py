"""Tingdao (听到): the speech service for Qwen3-ASR."""

__version__ = "0.1.0"
