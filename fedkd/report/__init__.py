"""What a run says: console, files, plots, W&B. Records come in; nothing here changes a run."""
