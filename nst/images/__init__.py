"""Pictures: files to RGB tensors in [0, 1] and back, pixel spaces, colours, masks. Knows nothing of networks."""
