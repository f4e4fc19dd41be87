"""From events to each user's sorted history, and where its splits are."""
