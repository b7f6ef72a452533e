"""Files of a run: client states, checkpoints, transcripts of what travelled."""
