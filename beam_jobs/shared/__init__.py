"""What the jobs share: options of runners, errors, storage, progress, counts."""
