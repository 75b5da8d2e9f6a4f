"""Question–answer files to packed batches."""
