"""The contract: what crosses HTTP and what crosses the queue."""
