"""What Dataflow needs beside the jobs: a Flex Template, and the image that its workers run."""
