"""Requests with their candidates, made of histories, and requests to rank."""
