"""Hand an edited model back, and publish it."""
