"""A development server with TensorFlow Serving's gRPC and REST API.

"The stock server" is TensorFlow Serving's own, ``tensorflow_model_server``.
"""
