"""Images for people: overlays, sheets, charts, and tables in text."""
