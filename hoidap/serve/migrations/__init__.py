"""How the tables came to be what they are, step by step; ``Store.open`` takes the steps that a file lacks."""
