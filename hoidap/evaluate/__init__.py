"""What a run knows, asked and compared."""
