"""Draw a protocol's images, know them again, show them."""
