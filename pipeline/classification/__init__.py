"""Classification: a label for a whole clip."""
