"""Pretraining: what a network learns from scans that nobody labelled."""
