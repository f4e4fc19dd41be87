"""A development server that speaks TensorFlow Serving's gRPC and REST API. It is not that server."""
