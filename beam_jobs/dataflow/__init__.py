"""Files for Dataflow: a Flex Template, and the image that its workers run."""
