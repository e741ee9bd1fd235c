"""Vision-transformer methods, one file each; found by erasure.registry."""
