"""Histories: every user's events, sorted, and the protocols that split them."""
