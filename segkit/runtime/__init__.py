"""Processes, devices, signals, run folders, files and downloads."""
