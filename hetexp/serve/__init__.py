"""A local page to play with: drop a picture, hover a detection, switch the method (task=serve)."""
