"""Which weights two models differ in."""
