"""Ask a served model, and serve one: gRPC client, development server, server configuration."""
