"""Requests with their candidates, built from histories, and requests to rank."""
