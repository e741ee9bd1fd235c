"""What the protocol `unlearncanvas` needs."""
