"""A development server with TensorFlow Serving's gRPC and REST API. Not the stock server."""
