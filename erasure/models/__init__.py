"""Models: what can be edited, how they are opened, which of their weights are selected."""
