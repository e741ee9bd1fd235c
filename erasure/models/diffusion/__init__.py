"""Text-to-image diffusion models, and how they are opened."""
