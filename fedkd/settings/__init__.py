"""Settings classes: parsing, validation, objects by import path."""
