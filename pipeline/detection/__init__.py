"""Detection: a box around every object."""
