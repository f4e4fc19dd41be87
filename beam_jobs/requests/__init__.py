"""From histories to requests with their candidates."""
