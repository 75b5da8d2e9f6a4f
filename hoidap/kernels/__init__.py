"""Operations that need speed: each has a declaration, a plain PyTorch reference and, where it pays, a fast version."""
