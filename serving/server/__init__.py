"""A development server with TensorFlow Serving's gRPC and REST API. It is not that server."""
