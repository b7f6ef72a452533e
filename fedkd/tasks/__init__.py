"""Learning tasks: images with labels, and texts with next tokens."""
