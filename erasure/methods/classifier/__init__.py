"""Methods for image classifiers, one file each; found by erasure.registry."""
