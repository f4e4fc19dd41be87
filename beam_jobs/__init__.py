"""Beam jobs: turn an event log into a folder of sequences, describe it, and rank its requests.

Start with ``python -m beam_jobs.build_sequences --help`` (or ``tfdare prepare --help``). The
parts of that job compose: ``reading.events.ReadEvents`` -> ``histories.sort.SortHistories`` ->
``vocabulary.learn.LearnVocabularies`` -> ``requests.build.BuildRequests`` ->
``output.write.WriteSequences``. Only :mod:`beam_jobs.batch_rank` imports TensorFlow.
"""
