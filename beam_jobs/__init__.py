"""Beam pipelines that turn an event log into a folder of sequences.

``python -m beam_jobs.build_sequences --help`` (or ``tfdare prepare --help``) is the way in. The
parts compose: ``events.ReadEvents`` -> ``histories.SortHistories`` ->
``vocabulary.LearnVocabularies`` -> ``requests.BuildRequests`` -> ``writing.WriteSequences``.
Nothing here imports TensorFlow, so that workers stay small.
"""
