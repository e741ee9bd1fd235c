"""Image classifiers that judge what a model draws."""
