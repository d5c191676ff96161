"""The commands of `mitmesh`, one file each. What is slow to import is imported inside the functions."""
