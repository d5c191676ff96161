"""Canaries: what is planned, where one stands, and what is done next. Pure but for what control/commands does with it."""
