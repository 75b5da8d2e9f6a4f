"""A run as other programs run it: written, asked, and kept only if it answers as the run does."""
