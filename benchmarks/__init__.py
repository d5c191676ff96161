"""Measurements of the mesh; none of them is installed with it."""
