"""Tools around a model server: query, verify, load and soak."""
