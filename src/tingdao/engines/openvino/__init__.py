"""Qwen3-ASR on a CPU without PyTorch: its graphs, its converted weights, and how OpenVINO runs them."""
