"""Qwen3-ASR: what it is told and answers, its checkpoints, and the model in this process with PyTorch.

dialogue, answer, tokenizer, weights    the model's language and files; without PyTorch, shared with all runtimes
engine, model                           clips → recognitions, whatever computes
encoder, decoder, memory                PyTorch
runtime                                 which of PyTorch and OpenVINO computes
"""
