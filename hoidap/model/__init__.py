"""MPT exactly, its weights and its adapters; knows nothing of training or serving."""
