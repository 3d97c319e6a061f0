"""An example plug-in."""
