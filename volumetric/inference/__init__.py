"""Networks over whole volumes and recordings."""
