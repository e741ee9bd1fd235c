"""Protocols: which prompts, seeds and judges make a number."""
