"""Writers of a run's curves, images and texts, one per service."""
