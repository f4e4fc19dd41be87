"""Serving of exported models: gRPC clients, a development server, tools and configuration."""
