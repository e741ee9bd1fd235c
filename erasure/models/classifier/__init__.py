"""Image classifiers, and how they are opened."""
