"""Instances: every object of one class outlined by itself, also where they touch."""
