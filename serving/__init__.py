"""Ask a served model, and serve one: gRPC clients, development server, server configuration."""
