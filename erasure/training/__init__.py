"""One training's engine: its run, its loop, its optimisers, what it computes on."""
