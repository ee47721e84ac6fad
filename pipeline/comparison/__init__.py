"""Two runs side by side: which cases both scored, what differs, and how sure that is."""
