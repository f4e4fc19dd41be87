"""A development server that speaks the gRPC API of TensorFlow Serving. It is not that server."""
