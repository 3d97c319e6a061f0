"""The machine below: processes, devices, signals, locks, files, downloads."""
