"""Learning tasks: images with labels, texts with labels, and texts with next tokens."""
