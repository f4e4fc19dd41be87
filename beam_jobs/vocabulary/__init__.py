"""Vocabularies of features and context, and the catalog of items, from histories."""
