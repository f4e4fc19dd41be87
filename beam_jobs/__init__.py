"""Beam pipelines that turn an event log into a folder of sequences.

Start with ``python -m beam_jobs.build_sequences --help`` (or ``tfdare prepare --help``). The
parts compose: ``reading.events.ReadEvents`` -> ``histories.sort.SortHistories`` ->
``vocabulary.learn.LearnVocabularies`` -> ``requests.build.BuildRequests`` ->
``output.write.WriteSequences``. Nothing here imports TensorFlow, so that workers stay small.
"""
