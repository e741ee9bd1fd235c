"""Diffusion methods, one file each; found by erasure.registry."""
