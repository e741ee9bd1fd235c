"""The protocol `prompts`: what is drawn, near neighbours, and what is measured on the images."""
