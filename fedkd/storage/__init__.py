"""Files of a run: client states, checkpoints, and transcripts of its messages."""
